-- Histories: whether a device's cursor is about this database or about another past of it.

-- A hash of everything that a history depends on. It differs where a database may lack changes that its devices know of, or
-- may have failed to record or show changes:
--  - a promoted replica and a restored backup have another timeline, a dump in another cluster has another system identifier;
--  - a dump in the same cluster has other oids, or the first row of sync.histories, which is never updated, was written by
--    another transaction;
--  - a trigger that was disabled and enabled again, or a policy that was created anew, was written by another transaction.
CREATE OR REPLACE FUNCTION sync.identity(OUT identity text, OUT system bigint, OUT timeline int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(convert_to(concat_ws(' ', m.history, h.xmin, h.tableoid, d.oid, c.system_identifier, t.line,
        (SELECT string_agg(concat_ws(':', g.oid, g.xmin), ',' ORDER BY g.oid)
         FROM pg_trigger g
         WHERE g.tgname IN ('atlas_sync_record', 'atlas_sync_record_update') AND g.tgrelid = ANY (a.tables)),
        (SELECT string_agg(concat_ws(':', p.oid, p.xmin), ',' ORDER BY p.oid)
         FROM pg_policy p WHERE p.polname = 'atlas_sync_reads' AND p.polrelid = ANY (a.tables))), 'UTF8')), 'hex'),
        c.system_identifier, ('x' || t.line)::bit(32)::int
    FROM sync.meta m, (SELECT xmin, tableoid FROM sync.histories ORDER BY n LIMIT 1) h, pg_database d,
         pg_control_system() c, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS t (line),
         (SELECT ARRAY(SELECT to_regclass(k.tab)::oid FROM sync.kinds k) AS tables) a
    WHERE d.datname = current_database()
$$;

-- The name of the current history: 16 random hexadecimal digits, because two promoted replicas have the same timeline. If
-- the identity differs from that of the newest recorded history, a new history is recorded.
CREATE OR REPLACE FUNCTION sync.epoch() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here record;
    newest record;
BEGIN
    SELECT * INTO here FROM sync.identity();
    SELECT h.epoch, h.identity INTO newest FROM sync.histories h ORDER BY h.n DESC LIMIT 1;
    IF newest.identity IS DISTINCT FROM here.identity THEN
        -- Several servers may notice the change at the same time.
        LOCK TABLE sync.histories IN SHARE ROW EXCLUSIVE MODE;
        SELECT h.epoch, h.identity INTO newest FROM sync.histories h ORDER BY h.n DESC LIMIT 1;
        IF newest.identity IS DISTINCT FROM here.identity THEN
            INSERT INTO sync.histories (epoch, identity, system, timeline)
            VALUES (substr(replace(gen_random_uuid()::text, '-', ''), 17), here.identity, here.system, here.timeline)
            RETURNING epoch, identity INTO newest;
        END IF;
    END IF;
    RETURN newest.epoch;
END
$$;

-- The current history, the names of those before it, oldest first, and the values that order two databases that both went on
-- from one history. `schemas`: those that began because of another schema only. `started`: when this Postgres was started, or recovered from a crash; transactions that it had not
-- flushed by then may be lost.
DROP FUNCTION IF EXISTS sync.standing();
CREATE OR REPLACE FUNCTION sync.standing(OUT epoch text, OUT lineage text[], OUT schemas text[], OUT system bigint,
                              OUT timeline int, OUT began_at timestamptz, OUT started timestamptz, OUT now timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    epoch := sync.epoch();
    SELECT h.system, h.timeline, h.began_at INTO system, timeline, began_at
    FROM sync.histories h WHERE h.epoch = standing.epoch;
    SELECT array_agg(h.epoch ORDER BY h.n) FILTER (WHERE h.epoch <> standing.epoch),
           array_agg(h.epoch) FILTER (WHERE h.why = 'schema')
    INTO lineage, schemas
    FROM (SELECT * FROM sync.histories ORDER BY n DESC LIMIT 1000) h;
    -- After a crash of one process Postgres recovers without a start, and begins its statistics anew.
    started := greatest(pg_postmaster_start_time(), (SELECT b.stats_reset FROM pg_stat_bgwriter b));
    now := clock_timestamp();
END
$$;

-- Begins a new history, unless `before` is no longer the newest one: every device starts over. For a server that may not have
-- seen all changes, a database that may not have recorded all, and an operator who went back to an earlier database.
CREATE OR REPLACE FUNCTION sync.begin_history(before text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sync.meta FOR UPDATE;
    IF sync.epoch() = before THEN
        UPDATE sync.meta SET history = gen_random_uuid();
    END IF;
    RETURN sync.epoch();
END
$$;

-- The tables in which row level security hides rows from functions that run as the owner of this function. They cannot
-- record a change of a row that they cannot see.
CREATE OR REPLACE FUNCTION sync.hidden() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(t, ', ')
    FROM sync.kinds k CROSS JOIN LATERAL (SELECT k.tab WHERE to_regclass(k.tab) IS NOT NULL) AS e (t)
    WHERE row_security_active(t)
$$;

CREATE OR REPLACE FUNCTION sync.refuse_hidden(tables text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'Row level security hides rows of % from %, so changes cannot be recorded for devices.',
                    tables, current_user
          USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('Run ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or ALTER ROLE %I BYPASSRLS.', current_user);
END
$$;

REVOKE ALL ON FUNCTION sync.identity, sync.epoch, sync.standing, sync.begin_history, sync.hidden, sync.refuse_hidden
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.epoch, sync.standing, sync.begin_history, sync.hidden TO atlas_sync;

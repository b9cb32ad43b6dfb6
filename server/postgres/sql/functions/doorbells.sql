-- Doorbells: NOTIFY is silent while every server reads changes from the WAL, because it serialises the commits of a database.
--
-- A session that depends on NOTIFY holds a shared advisory lock, the mark. Any role may take that lock, so no function waits
-- for it: whoever holds it in whatever mode keeps NOTIFY ringing, which costs time and no change.

-- For a session that listens, in a READ COMMITTED transaction of its own: NOTIFY rings for every transaction that takes its
-- snapshot after the commit. Transactions that had an xid before the commit may still be silent: when they have ended, their
-- changes are to be looked for. Returns whether the session has the mark; if not, call it again later.
CREATE OR REPLACE FUNCTION sync.listening() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    marked pg_catalog.bool;
BEGIN
    -- keep_quiet() looks for the mark while it holds this row: whichever of both comes second sees what the first has done.
    PERFORM FROM sync.meta FOR UPDATE;
    marked := pg_try_advisory_lock_shared(1635019891, 1);
    UPDATE sync.meta SET quiet_until = '-infinity' WHERE quiet_until <> '-infinity';
    RETURN marked;
END
$$;

-- For a server that reads the WAL, every few seconds: silences NOTIFY for the next two minutes, if `migrate` has chosen that
-- and no session has the mark. Returns whether NOTIFY is silent.
CREATE OR REPLACE FUNCTION sync.keep_quiet() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until pg_catalog.timestamptz;
    quiet pg_catalog.bool;
BEGIN
    SELECT m.quiet_until, m.doorbells = 'wal' AND NOT sync.has_listeners() INTO until, quiet FROM sync.meta m;
    -- Nearly every call ends here, and writes nothing: each version of this row is read by every commit until it is removed.
    IF quiet AND until > clock_timestamp() + interval '1 minute' OR NOT quiet AND until = '-infinity' THEN
        RETURN quiet;
    END IF;
    PERFORM FROM sync.meta FOR UPDATE;
    SELECT m.doorbells = 'wal' AND NOT sync.has_listeners() INTO quiet FROM sync.meta m;
    UPDATE sync.meta
    SET quiet_until = CASE WHEN quiet THEN clock_timestamp() + interval '2 minutes' ELSE '-infinity' END;
    RETURN quiet;
END
$$;

-- Whether a session has the mark. It sees locks of this moment, whatever the snapshot is.
CREATE OR REPLACE FUNCTION sync.has_listeners() RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
                     AND (l.classid, l.objid, l.objsubid) = (1635019891::oid, 1::oid, 2))
$$;

-- Takes tables out of the publication atlas_sync of which Postgres would refuse UPDATEs, because an app has changed their keys:
-- without a replica identity that is published. Their changes still ring. It never fails. `migrate` puts them back when they
-- fit again. Judges as sql/publication.sql does.
CREATE OR REPLACE FUNCTION sync.withdraw() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    unfit pg_catalog.text;
BEGIN
    IF NOT EXISTS (SELECT FROM sync.meta m WHERE m.doorbells = 'wal') THEN
        RETURN;
    END IF;
    FOR unfit IN
        WITH RECURSIVE parts AS (
            SELECT r.prrelid AS root, r.prrelid AS oid, r.prattrs
            FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = 'atlas_sync'
            UNION ALL
            SELECT p.root, i.inhrelid, p.prattrs FROM parts p JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'p'
            JOIN pg_inherits i ON i.inhparent = p.oid
        )
        SELECT DISTINCT format('%I.%I', n.nspname, r.relname)
        FROM parts p JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r'
        JOIN pg_class r ON r.oid = p.root JOIN pg_namespace n ON n.oid = r.relnamespace
        WHERE NOT EXISTS (
            SELECT FROM pg_index x
            WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate
              AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END
              AND NOT EXISTS (
                  SELECT FROM unnest(x.indkey) WITH ORDINALITY AS k (attnum, i)
                  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
                  WHERE k.i <= x.indnkeyatts
                    AND a.attname <> ALL (ARRAY(SELECT b.attname FROM pg_attribute b
                                                WHERE b.attrelid = p.root AND b.attnum = ANY (p.prattrs)))))
    LOOP
        EXECUTE format('ALTER PUBLICATION atlas_sync DROP TABLE ONLY %s', unfit);
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    -- A table that is being altered at this moment, or a publication that an operator has altered: the next call finds out.
    RETURN;
END
$$;

-- The same within the transaction that alters a table, so that its own UPDATEs do not fail either. Only a superuser may make
-- event triggers; elsewhere servers call sync.withdraw() every few seconds.
CREATE OR REPLACE FUNCTION sync.withdraw_on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM sync.withdraw();
END
$$;

REVOKE ALL ON FUNCTION sync.listening, sync.keep_quiet, sync.has_listeners, sync.withdraw, sync.withdraw_on_ddl FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.listening, sync.keep_quiet, sync.withdraw TO atlas_sync;

-- Recording changes: what the triggers on the declared tables call. Each changed row becomes an entry of its owner's feed, in
-- the transaction that changes the row. `migrate` makes the functions of the triggers from the declaration.
--
-- They run deferred, at commit. The feed's row lock is then taken last and held only during the commit: commit order is seq
-- order, and a transaction that waits for this lock holds none that another transaction of the same user still needs. Before
-- PostgreSQL 18 they run as the role that is current at COMMIT: never read current_user in them.

-- Earlier versions of this one took other arguments.
DROP FUNCTION IF EXISTS sync.record(uuid, "char", "char", uuid, timestamptz);
-- Or it returned nothing.
DO $$
BEGIN
    IF (SELECT p.prorettype = 'pg_catalog.void'::pg_catalog.regtype FROM pg_catalog.pg_proc p
        WHERE p.oid = pg_catalog.to_regprocedure('sync.record(uuid, "char", "char", uuid, timestamptz, text[])')) THEN
        DROP FUNCTION sync.record(uuid, "char", "char", uuid, timestamptz, text[]);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION sync.seq_at(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (EXTRACT(epoch FROM moment) * 1000000)::bigint
$$;

COMMENT ON FUNCTION sync.seq_at IS 'The seq that a transaction at this moment gets: microseconds since 1970.';

-- Adds an entry to the owner's feed. The first entry of a transaction moves the feed and rings the doorbell; the later ones
-- find the transaction's mark there. Moving the feed once per row would be quadratic in the rows of a transaction. Returns
-- whether it was the first: from then on the transaction holds the feed's lock.
--
-- The row is named by `row_id`, and `row_at` in a table that is partitioned by an instant; or, if its key is no uuid, by the
-- texts in `row_key`. `this` is the transaction's mark. No other transaction has the same, in whatever history.
CREATE OR REPLACE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid, row_at timestamptz DEFAULT NULL,
                                       row_key text[] DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this pg_catalog.int8 := (pg_catalog.hashint8extended(pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
                                                         sync.seq_at(pg_catalog.now())) & 9223372036854775806) | 1;
    at_seq pg_catalog.int8;
    before_seq pg_catalog.int8;
    before_mark pg_catalog.int8;
    doorbell pg_catalog.text;
    is_first pg_catalog.bool;
BEGIN
    SELECT f.seq, f.prev, f.prev_mark INTO at_seq, before_seq, before_mark
    FROM sync.feeds f WHERE f.user_id = owner AND f.mark = this;
    is_first := NOT FOUND;
    IF is_first THEN
        INSERT INTO sync.feeds AS f (user_id, seq, prev, mark)
        VALUES (owner, sync.seq_at(pg_catalog.clock_timestamp()), 0, this)
        ON CONFLICT (user_id) DO UPDATE
            SET prev = f.seq, prev_mark = f.mark, seq = greatest(f.seq + 1, excluded.seq), mark = excluded.mark
        RETURNING f.seq, f.prev, f.prev_mark, (SELECT m.channel FROM sync.meta m)
        INTO at_seq, before_seq, before_mark, doorbell;
        PERFORM pg_catalog.pg_notify(doorbell, owner || ' ' || at_seq);
    END IF;
    INSERT INTO sync.log (user_id, seq, prev, mark, prev_mark, kind, op, row_id, row_at, row_key)
    VALUES (owner, at_seq, before_seq, this, before_mark, kind, op, row_id, row_at, row_key);
    RETURN is_first;
END
$$;

CREATE OR REPLACE FUNCTION sync.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of %.% would be invisible to devices. Use DELETE.', TG_TABLE_SCHEMA, TG_TABLE_NAME;
END
$$;

REVOKE ALL ON FUNCTION sync.seq_at, sync.record, sync.refuse_truncate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.seq_at TO atlas_sync;

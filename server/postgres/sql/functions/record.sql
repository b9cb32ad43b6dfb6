-- Recording changes: what the triggers on the declared tables call. Each changed row becomes an entry of its owner's feed, in
-- the transaction that changes the row. `migrate` makes the functions of the triggers from the declaration.
--
-- They run deferred, at commit. The feed's row lock is then taken last and held only during the commit: commit order is seq
-- order, and a transaction that waits for this lock holds none that another transaction of the same user still needs. Before
-- PostgreSQL 18 they run as the role that is current at COMMIT: never read current_user in them.

-- Earlier versions of this one took other arguments.
DROP FUNCTION IF EXISTS sync.record(uuid, "char", "char", uuid, timestamptz);
DROP FUNCTION IF EXISTS sync.record(uuid, "char", "char", uuid, timestamptz, text[]);

CREATE OR REPLACE FUNCTION sync.seq_at(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (EXTRACT(epoch FROM moment) * 1000000)::bigint
$$;

COMMENT ON FUNCTION sync.seq_at IS 'The seq that a transaction at this moment gets: microseconds since 1970.';

-- Adds an entry to the owner's feed. The first entry of a transaction moves the feed and rings the doorbell, unless the
-- servers read the WAL; the later ones find the transaction's mark there. Moving the feed once per row would be quadratic in
-- the rows of a transaction. The first returns the feed's mark before it, the later ones NULL: from the first one on the
-- transaction holds the feed's lock. `seen`: the feed's mark when the caller looked; it saves a look here.
--
-- The row is named by `row_id`, and `row_at` in a table that is partitioned by an instant; or, if its key is no uuid, by the
-- texts in `row_key`. `this` is the transaction's mark. No other transaction has the same, in whatever history.
CREATE OR REPLACE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid, row_at timestamptz DEFAULT NULL,
                                       row_key text[] DEFAULT NULL, seen bigint DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this pg_catalog.int8 := (pg_catalog.hashint8extended(pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
                                                         sync.seq_at(pg_catalog.now())) & 9223372036854775806) | 1;
    at_seq pg_catalog.int8;
    before_seq pg_catalog.int8;
    before_mark pg_catalog.int8;
    doorbell pg_catalog.text;
    former_mark pg_catalog.int8;
BEGIN
    IF seen IS NULL OR seen = this THEN
        SELECT f.seq, f.prev, f.prev_mark INTO at_seq, before_seq, before_mark
        FROM sync.feeds f WHERE f.user_id = owner AND f.mark = this;
    END IF;
    IF at_seq IS NULL THEN
        INSERT INTO sync.feeds AS f (user_id, seq, prev, mark)
        VALUES (owner, sync.seq_at(pg_catalog.clock_timestamp()), 0, this)
        ON CONFLICT (user_id) DO UPDATE
            SET prev = f.seq, prev_mark = f.mark, seq = greatest(f.seq + 1, excluded.seq), mark = excluded.mark
        -- A transaction that keeps its first snapshot may not see that a session listens by now, so it always rings. Any
        -- other one had its xid before it took this snapshot: whoever listens waits for it (doorbells.sql).
        RETURNING f.seq, f.prev, f.prev_mark,
                  (SELECT m.channel FROM sync.meta m
                   WHERE m.quiet_until <= pg_catalog.clock_timestamp()
                      OR pg_catalog.current_setting('transaction_isolation') IN ('repeatable read', 'serializable'))
        INTO at_seq, before_seq, before_mark, doorbell;
        IF doorbell IS NOT NULL THEN
            PERFORM pg_catalog.pg_notify(doorbell, owner || ' ' || at_seq);
        END IF;
        former_mark := before_mark;
    END IF;
    INSERT INTO sync.log (user_id, seq, prev, mark, prev_mark, kind, op, row_id, row_at, row_key)
    VALUES (owner, at_seq, before_seq, this, before_mark, kind, op, row_id, row_at, row_key);
    RETURN former_mark;
END
$$;

-- Rows below a parent without an owner have no feed whose lock would order their changes. Whoever changes one holds the parent
-- until it commits, beside others that do; whoever gives the parent an owner, or inserts a parent that rows name already,
-- holds it `alone`, and then looks for the rows below. So the later one sees what the earlier one did, or is told to try
-- again: under REPEATABLE READ each row that was held alone since its snapshot is another version of it.
--
-- A row that names a parent which is not there is inserted alone, too: the parent's INSERT may be under REPEATABLE READ, and
-- must not miss it. Parents share 1024 places: one of each parent would never be removed.
CREATE OR REPLACE FUNCTION sync.hold(kind "char", key text, alone boolean) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Texts that are equal although they differ in case have one place.
    here pg_catalog.int4 := pg_catalog.hashtextextended(kind::pg_catalog.text || pg_catalog.lower(key), 0) & 1023;
    this pg_catalog.int8 := pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8;
BEGIN
    IF alone THEN
        INSERT INTO sync.nobody AS n (place, mark) VALUES (here, this)
        ON CONFLICT (place) DO UPDATE SET mark = excluded.mark WHERE n.mark <> excluded.mark;
        RETURN;
    END IF;
    LOOP
        PERFORM FROM sync.nobody n WHERE n.place = here FOR SHARE;
        EXIT WHEN FOUND;
        INSERT INTO sync.nobody (place, mark) VALUES (here, 0) ON CONFLICT (place) DO NOTHING;
    END LOOP;
END
$$;

-- A row that moves to another user's parent is sent there with the rows below it. A transaction that adds one of these at the
-- same moment for the former owner holds that user's feed, and so is waited for. But the former parent may be deleted, or given
-- to somebody, in the transaction that moves the row: then its former owner is only found when that is recorded. The feeds to
-- which rows have moved are noted until the end of the transaction, so that the rows below can be looked for again.
CREATE OR REPLACE FUNCTION sync.note_move(owner uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_catalog.strpos(sync.noted_moves(), owner::pg_catalog.text) = 0 THEN
        PERFORM pg_catalog.set_config('atlas_sync.moves', sync.noted_moves() || ' ' || owner, true);
    END IF;
END
$$;

-- The users to whom rows have moved in this transaction, each with a blank before; empty: none has.
CREATE OR REPLACE FUNCTION sync.noted_moves() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(current_setting('atlas_sync.moves', true), '')
$$;

-- The rows of a kind that have moved in this transaction, or changed beside those that moved, as the log names them.
CREATE OR REPLACE FUNCTION sync.moved(kind "char") RETURNS TABLE (row_id uuid, row_at timestamptz, row_key text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT l.row_id, l.row_at, l.row_key
    FROM sync.feeds f JOIN sync.log l ON l.user_id = f.user_id AND l.seq = f.seq
    WHERE f.user_id = ANY (string_to_array(ltrim(sync.noted_moves()), ' ')::uuid[]) AND l.kind = moved.kind AND l.op = 'u'
$$;

-- A transaction that gives a row of nobody an owner sends the rows below it. With a snapshot of its own it might not see all.
CREATE OR REPLACE FUNCTION sync.refuse_unseen() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'A row that belongs to nobody cannot get an owner under isolation level %.',
                        pg_catalog.upper(pg_catalog.current_setting('transaction_isolation'))
              USING ERRCODE = 'feature_not_supported',
                    DETAIL = 'A row below it that was committed since the snapshot would not reach the owner''s devices.',
                    HINT = 'Use READ COMMITTED for this transaction.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION sync.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of %.% would be invisible to devices. Use DELETE.', TG_TABLE_SCHEMA, TG_TABLE_NAME;
END
$$;

REVOKE ALL ON FUNCTION sync.seq_at, sync.record, sync.hold, sync.note_move, sync.noted_moves, sync.moved, sync.refuse_unseen,
    sync.refuse_truncate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.seq_at TO atlas_sync;

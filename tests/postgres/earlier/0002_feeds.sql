-- Feeds: one user's ordered stream of changes, written by triggers in the transaction that changes the row.

REVOKE ALL ON SCHEMA sync FROM PUBLIC;
GRANT USAGE ON SCHEMA sync TO atlas_sync;

CREATE TABLE sync.meta (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- Set a new one by hand after restoring a disk image: `UPDATE sync.meta SET history = gen_random_uuid()`.
    history  uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO sync.meta DEFAULT VALUES;

-- `prev` is the seq before the last transaction; `xid` is that transaction. fillfactor 50 keeps the updates HOT.
CREATE TABLE sync.feeds (
    user_id uuid PRIMARY KEY,
    seq     bigint NOT NULL,
    prev    bigint NOT NULL,
    xid     xid8 NOT NULL
) WITH (fillfactor = 50);

-- The change log: one row per changed row per transaction. `prev` is the feed's seq before this transaction, so a
-- reader proves from the log itself that nothing is missing between its position and what it reads.
CREATE TABLE sync.log (
    user_id uuid NOT NULL,
    seq     bigint NOT NULL,
    n       bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    prev    bigint NOT NULL,
    kind    "char" NOT NULL,     -- p profile, c conversation, m message
    op      "char" NOT NULL,     -- u upsert, d deletion
    row_id  uuid NOT NULL,
    row_at  timestamptz,         -- a message's created_at: the other half of its primary key
    PRIMARY KEY (user_id, seq, n)
) PARTITION BY RANGE (seq);
CREATE TABLE sync.log_default PARTITION OF sync.log DEFAULT;
DO $$
DECLARE
    -- A table that was partitioned before us may have one.
    theirs regclass := (SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                        WHERE i.inhparent = 'public.messages'::regclass
                          AND pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT');
BEGIN
    IF theirs IS NULL THEN
        CREATE TABLE sync.messages_default PARTITION OF public.messages DEFAULT;
    ELSE
        EXECUTE format('ALTER TABLE %s SET SCHEMA sync', theirs);
        IF theirs IS DISTINCT FROM to_regclass('sync.messages_default') THEN
            EXECUTE format('ALTER TABLE %s RENAME TO messages_default', theirs);
        END IF;
    END IF;
END
$$;
ALTER TABLE sync.messages_default ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION sync.seq_at(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = '' AS $$
    SELECT (EXTRACT(epoch FROM moment) * 1000000)::bigint
$$;
COMMENT ON FUNCTION sync.seq_at IS 'The seq that a transaction at this moment gets: microseconds since 1970.';

-- The first event of a (transaction, user) moves the feed and rings the doorbell; the others find the xid. A bump per
-- row would be quadratic in the rows of a transaction.
CREATE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid, row_at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    this pg_catalog.xid8 := pg_catalog.pg_current_xact_id();
    at_seq bigint;
    before_seq bigint;
BEGIN
    SELECT f.seq, f.prev INTO at_seq, before_seq FROM sync.feeds f WHERE f.user_id = owner AND f.xid = this;
    IF NOT FOUND THEN
        INSERT INTO sync.feeds AS f (user_id, seq, prev, xid)
        VALUES (owner, sync.seq_at(pg_catalog.clock_timestamp()), 0, this)
        ON CONFLICT (user_id) DO UPDATE
            SET prev = f.seq, seq = greatest(f.seq + 1, excluded.seq), xid = excluded.xid
        RETURNING f.seq, f.prev INTO at_seq, before_seq;
        PERFORM pg_catalog.pg_notify('atlas_sync', owner || ' ' || at_seq);
    END IF;
    INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id, row_at)
    VALUES (owner, at_seq, before_seq, kind, op, row_id, row_at);
END
$$;

-- These run deferred, at commit: the feed's row lock is then taken last and held only for the commit, so commit order
-- is seq order, and a transaction that waits for it holds nothing that another one of the user still wants.
-- Before PostgreSQL 18 they run as the role that is current at COMMIT: never read current_user in them.
CREATE FUNCTION sync.profile_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM sync.record(OLD.id, 'p', 'd', OLD.id, NULL);
    ELSE
        IF TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
            RAISE EXCEPTION 'A profile''s id cannot change: devices know the user by it.';
        END IF;
        PERFORM sync.record(NEW.id, 'p', 'u', NEW.id, NULL);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION sync.conversation_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM sync.record(OLD.user_id, 'c', 'd', OLD.id, NULL);
    ELSE
        IF TG_OP = 'UPDATE' AND (OLD.user_id <> NEW.user_id OR OLD.id <> NEW.id) THEN
            RAISE EXCEPTION 'A conversation''s owner and id cannot change. Copy it for the other user, delete this one.';
        END IF;
        PERFORM sync.record(NEW.user_id, 'c', 'u', NEW.id, NULL);
    END IF;
    RETURN NULL;
END
$$;

-- A message is its conversation's owner's. Without one the conversation is gone, and its own deletion says it all.
CREATE FUNCTION sync.message_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    owner uuid;
    former_owner uuid;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT c.user_id INTO owner FROM public.conversations c WHERE c.id = NEW.conversation_id;
    END IF;
    -- Out of one conversation and into another are two facts: should the new one be deleted before a device reads of
    -- it, in this very transaction even, that removes nothing where the message is known in the old one.
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE'
                            AND (OLD.id, OLD.conversation_id) IS DISTINCT FROM (NEW.id, NEW.conversation_id)) THEN
        SELECT c.user_id INTO former_owner FROM public.conversations c WHERE c.id = OLD.conversation_id;
        IF owner <> former_owner THEN
            RAISE EXCEPTION 'A message cannot move to another user''s conversation.';
        END IF;
        IF coalesce(former_owner, owner) IS NOT NULL THEN
            PERFORM sync.record(coalesce(former_owner, owner), 'm', 'd', OLD.id, OLD.created_at);
        END IF;
    END IF;
    IF owner IS NOT NULL THEN
        PERFORM sync.record(owner, 'm', 'u', NEW.id, NEW.created_at);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION sync.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of %.% would be invisible to devices. Use DELETE.', TG_TABLE_SCHEMA, TG_TABLE_NAME;
END
$$;

-- Two triggers a table, because WHEN can look at OLD and NEW only where both exist. An update that changes no synced
-- column records nothing. Row triggers on the partitioned parent are cloned to its partitions, so a write made
-- directly on a partition counts too.
CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.profiles
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.profile_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.profiles
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.subscription_tier, OLD.subscription_status)
          IS DISTINCT FROM (NEW.id, NEW.subscription_tier, NEW.subscription_status))
    EXECUTE FUNCTION sync.profile_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.conversations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.conversation_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.conversations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.user_id, OLD.title, OLD.created_at, OLD.updated_at)
          IS DISTINCT FROM (NEW.id, NEW.user_id, NEW.title, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.conversation_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.messages
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.message_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.messages
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at)
          IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.message_changed();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.profiles
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.conversations
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.messages
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON sync.messages_default
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

-- The epoch: differs between any two databases that share a past but not a future. A restored backup and a promoted
-- replica have another timeline, a loaded dump another system identifier, and an operator can set another history.
CREATE FUNCTION sync.epoch() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
        meta.history || ' ' || control.system_identifier || ' '
            || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8), 'UTF8')), 'hex'), 1, 16)
    FROM sync.meta, pg_catalog.pg_control_system() AS control
$$;

-- Monthly partitions of messages and weekly ones of the log, for every month and week that [since, until] touches.
CREATE FUNCTION sync.ensure_partitions(since timestamptz, until timestamptz) RETURNS int
LANGUAGE plpgsql SET search_path = '' SET timezone = 'UTC' AS $$
DECLARE
    made int := 0;
    month timestamptz;
    week timestamptz;
    part text;
BEGIN
    FOR month IN SELECT * FROM pg_catalog.generate_series(
            pg_catalog.date_trunc('month', since), until, interval '1 month') LOOP
        part := 'messages_' || pg_catalog.to_char(month, 'YYYY_MM');
        IF pg_catalog.to_regclass('sync.' || part) IS NULL THEN
            EXECUTE pg_catalog.format('CREATE TABLE sync.%I PARTITION OF public.messages FOR VALUES FROM (%L) TO (%L)',
                                      part, month, month + interval '1 month');
            -- Nobody but their owner reaches rows through a partition; and row level security of the parent does not
            -- count there, so it has its own, with no policy at all.
            EXECUTE pg_catalog.format('ALTER TABLE sync.%I ENABLE ROW LEVEL SECURITY', part);
            -- Statement triggers are not cloned.
            EXECUTE pg_catalog.format('CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON sync.%I '
                                      'FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', part);
            made := made + 1;
        END IF;
    END LOOP;
    -- No change is older than this day.
    FOR week IN SELECT * FROM pg_catalog.generate_series(
            pg_catalog.date_trunc('week', greatest(since, pg_catalog.now())), until, interval '1 week') LOOP
        part := 'log_' || pg_catalog.to_char(week, 'IYYY_"w"IW');
        IF pg_catalog.to_regclass('sync.' || part) IS NULL THEN
            EXECUTE pg_catalog.format('CREATE TABLE sync.%I PARTITION OF sync.log FOR VALUES FROM (%s) TO (%s)',
                                      part, sync.seq_at(week), sync.seq_at(week + interval '1 week'));
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END
$$;

-- Functions are for PUBLIC unless one says otherwise.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sync FROM PUBLIC;
GRANT SELECT ON sync.feeds, sync.log, sync.log_default, sync.meta TO atlas_sync;
-- For `doctor`.
GRANT SELECT ON sync.migrations, sync.messages_default TO atlas_sync;
CREATE POLICY atlas_sync_reads ON sync.messages_default FOR SELECT TO atlas_sync USING (true);
GRANT EXECUTE ON FUNCTION sync.epoch(), sync.seq_at(timestamptz) TO atlas_sync;

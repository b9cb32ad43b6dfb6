-- Feeds: the ordered stream of one user's changes. Triggers write it in the transaction that changes the row.

REVOKE ALL ON SCHEMA sync FROM PUBLIC;
GRANT USAGE ON SCHEMA sync TO atlas_sync;

CREATE TABLE sync.meta (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- After restoring a disk image, set a new one by hand: `UPDATE sync.meta SET history = gen_random_uuid()`.
    history  uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO sync.meta DEFAULT VALUES;

-- `prev` is the seq before the last transaction, `xid` is that transaction. fillfactor 50 keeps the updates HOT.
CREATE TABLE sync.feeds (
    user_id uuid PRIMARY KEY,
    seq     bigint NOT NULL,
    prev    bigint NOT NULL,
    xid     xid8 NOT NULL
) WITH (fillfactor = 50);

-- The change log: one row per changed row per transaction. `prev` is the feed's seq before this transaction. With it a
-- reader proves from the log itself that nothing is missing between its position and the rows it reads.
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
    -- A table that the app had partitioned may have a default partition already.
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

-- Two triggers per table, because WHEN can use OLD and NEW only where both exist. An update that changes no synced column
-- records nothing. Postgres clones row triggers of the partitioned table to its partitions, so a write that is made
-- directly on a partition is recorded too.
--
-- Never create these triggers anew without need: it locks the table, and it begins a new history (sync.identity).
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

GRANT SELECT ON sync.feeds, sync.log, sync.log_default, sync.meta TO atlas_sync;
-- For `doctor`.
GRANT SELECT ON sync.migrations, sync.messages_default TO atlas_sync;
CREATE POLICY atlas_sync_reads ON sync.messages_default FOR SELECT TO atlas_sync USING (true);

-- Recording changes: the functions of the triggers on the app's tables. Each changed row becomes an entry of its owner's
-- feed, in the transaction that changes the row.

CREATE OR REPLACE FUNCTION sync.seq_at(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (EXTRACT(epoch FROM moment) * 1000000)::bigint
$$;

COMMENT ON FUNCTION sync.seq_at IS 'The seq that a transaction at this moment gets: microseconds since 1970.';

-- Adds an entry to the owner's feed. The first entry of a transaction moves the feed and rings the doorbell; the later ones
-- find the transaction's mark there. Moving the feed once per row would be quadratic in the rows of a transaction.
--
-- `this` is the transaction's mark. No other transaction has the same, in whatever history.
CREATE OR REPLACE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid, row_at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this pg_catalog.int8 := (pg_catalog.hashint8extended(pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
                                                         sync.seq_at(pg_catalog.now())) & 9223372036854775806) | 1;
    at_seq pg_catalog.int8;
    before_seq pg_catalog.int8;
    before_mark pg_catalog.int8;
    doorbell pg_catalog.text;
BEGIN
    SELECT f.seq, f.prev, f.prev_mark INTO at_seq, before_seq, before_mark
    FROM sync.feeds f WHERE f.user_id = owner AND f.mark = this;
    IF NOT FOUND THEN
        INSERT INTO sync.feeds AS f (user_id, seq, prev, mark)
        VALUES (owner, sync.seq_at(pg_catalog.clock_timestamp()), 0, this)
        ON CONFLICT (user_id) DO UPDATE
            SET prev = f.seq, prev_mark = f.mark, seq = greatest(f.seq + 1, excluded.seq), mark = excluded.mark
        RETURNING f.seq, f.prev, f.prev_mark, (SELECT m.channel FROM sync.meta m)
        INTO at_seq, before_seq, before_mark, doorbell;
        PERFORM pg_catalog.pg_notify(doorbell, owner || ' ' || at_seq);
    END IF;
    INSERT INTO sync.log (user_id, seq, prev, mark, prev_mark, kind, op, row_id, row_at)
    VALUES (owner, at_seq, before_seq, this, before_mark, kind, op, row_id, row_at);
END
$$;

-- The three functions below run deferred, at commit. The feed's row lock is then taken last and held only during the commit:
-- commit order is seq order, and a transaction that waits for this lock holds none that another transaction of the same user
-- still needs. Before PostgreSQL 18 they run as the role that is current at COMMIT: never read current_user in them.
CREATE OR REPLACE FUNCTION sync.profile_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM sync.record(OLD.id, 'p', 'd', OLD.id, NULL);
    ELSE
        IF TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
            RAISE EXCEPTION 'A profile''s id cannot change: devices identify the user by it.';
        END IF;
        PERFORM sync.record(NEW.id, 'p', 'u', NEW.id, NULL);
    END IF;
    RETURN NULL;
END
$$;

-- In tables that the app made, a conversation may belong to nobody. When it gets an owner, it is recorded with its messages.
-- When it loses its owner, its deletion is recorded for that owner. The messages may be hidden by row level security; then
-- the transaction fails.
CREATE OR REPLACE FUNCTION sync.conversation_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.user_id <> NEW.user_id OR OLD.id <> NEW.id) THEN
        RAISE EXCEPTION 'A conversation''s owner and id cannot change. Copy it for the other user, delete this one.';
    END IF;
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND NEW.user_id IS NULL) THEN
        IF OLD.user_id IS NOT NULL THEN
            PERFORM sync.record(OLD.user_id, 'c', 'd', OLD.id, NULL);
        END IF;
    ELSIF NEW.user_id IS NOT NULL THEN
        PERFORM sync.record(NEW.user_id, 'c', 'u', NEW.id, NULL);
        IF TG_OP = 'UPDATE' AND OLD.user_id IS NULL THEN
            IF sync.hidden() IS NOT NULL THEN
                PERFORM sync.refuse_hidden(sync.hidden());
            END IF;
            PERFORM sync.record(NEW.user_id, 'm', 'u', m.id, m.created_at)
            FROM sync.all_messages m WHERE m.conversation_id = NEW.id;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- A message belongs to the owner of its conversation. If the conversation is not found, it was deleted, and its own deletion
-- is recorded instead; or row level security hides it, and then the transaction fails.
CREATE OR REPLACE FUNCTION sync.message_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner pg_catalog.uuid;
    former_owner pg_catalog.uuid;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT c.user_id INTO owner FROM public.conversations c WHERE c.id = NEW.conversation_id;
    END IF;
    -- A move from one conversation to another is recorded as a deletion and an upsert. If the new conversation is deleted
    -- before a device reads of the move, perhaps in this very transaction, then its deletion alone would not remove the
    -- message from a device that has it in the old conversation.
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
    ELSIF former_owner IS NULL AND pg_catalog.row_security_active('public.conversations') THEN
        PERFORM sync.refuse_hidden('public.conversations');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION sync.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of %.% would be invisible to devices. Use DELETE.', TG_TABLE_SCHEMA, TG_TABLE_NAME;
END
$$;

REVOKE ALL ON FUNCTION sync.seq_at, sync.record, sync.profile_changed, sync.conversation_changed, sync.message_changed,
    sync.refuse_truncate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.seq_at TO atlas_sync;

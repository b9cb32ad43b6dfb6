-- All rows of kind message, archived or not. The view has the rights of the role that reads it.
CREATE OR REPLACE VIEW sync.all_messages WITH (security_invoker = true) AS
    SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages
    UNION ALL
    SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages_archive;
GRANT SELECT ON sync.all_messages TO atlas_sync;

-- Records the changes of public.profiles as rows of kind profile.
CREATE OR REPLACE FUNCTION sync.record_profile() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.id) IS DISTINCT FROM (NEW.id)) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _former := OLD.id;
        IF _former IS NOT NULL THEN
            PERFORM sync.record(_former, 'p', 'd', OLD.id);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _owner := NEW.id;
        IF _owner IS NOT NULL THEN
            PERFORM sync.record(_owner, 'p', 'u', NEW.id);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_profile FROM PUBLIC;

-- Records the changes of public.conversations as rows of kind conversation.
CREATE OR REPLACE FUNCTION sync.record_conversation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.id, OLD.user_id) IS DISTINCT FROM (NEW.id, NEW.user_id)) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _former := OLD.user_id;
        IF _former IS NOT NULL THEN
            PERFORM sync.record(_former, 'c', 'd', OLD.id);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _owner := NEW.user_id;
        IF _owner IS NOT NULL THEN
            PERFORM sync.record(_owner, 'c', 'u', NEW.id);
        END IF;
    END IF;
    IF _owner IS NOT NULL AND TG_OP = 'UPDATE' AND (OLD.id, OLD.user_id) IS DISTINCT FROM (NEW.id, NEW.user_id) THEN
        -- The rows below it are to be sent where it is now.
        IF row_security_active('public.messages') OR row_security_active('public.messages_archive') THEN
            PERFORM sync.refuse_hidden(sync.hidden());
        END IF;
        PERFORM sync.record(_owner, 'm', 'u', c.id, c.created_at)
        FROM sync.all_messages c WHERE c.conversation_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_conversation FROM PUBLIC;

-- Records the changes of public.messages as rows of kind message.
CREATE OR REPLACE FUNCTION sync.record_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
    _again pg_catalog.uuid;
    _seen pg_catalog.int8;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.id, OLD.conversation_id) IS DISTINCT FROM (NEW.id, NEW.conversation_id)) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        SELECT p1.user_id, coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = p1.user_id), 0) INTO _former, _seen
        FROM public.conversations p1 WHERE p1.id = OLD.conversation_id;
        WHILE _former IS NOT NULL LOOP
            EXIT WHEN coalesce(sync.record(_former, 'm', 'd', OLD.id, OLD.created_at, seen => _seen) = _seen, true);
            -- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another
            -- user, it did not see this change. Under the lock none gives it to another one.
            SELECT p1.user_id, coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = p1.user_id), 0) INTO _again, _seen
            FROM public.conversations p1 WHERE p1.id = OLD.conversation_id;
            EXIT WHEN _again = _former;
            _former := _again;
        END LOOP;
        IF _former IS NULL AND TG_OP = 'UPDATE' THEN
            -- A parent that was deleted in this transaction has no owner any more.
            _again := (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = NEW.conversation_id);
            IF _again IS NOT NULL THEN
                PERFORM sync.record(_again, 'm', 'd', OLD.id, OLD.created_at);
            END IF;
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT p1.user_id, coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = p1.user_id), 0) INTO _owner, _seen
        FROM public.conversations p1 WHERE p1.id = NEW.conversation_id;
        WHILE _owner IS NOT NULL LOOP
            EXIT WHEN coalesce(sync.record(_owner, 'm', 'u', NEW.id, NEW.created_at, seen => _seen) = _seen, true);
            -- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another
            -- user, it did not see this change. Under the lock none gives it to another one.
            SELECT p1.user_id, coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = p1.user_id), 0) INTO _again, _seen
            FROM public.conversations p1 WHERE p1.id = NEW.conversation_id;
            EXIT WHEN _again = _owner;
            -- Not that user's row. A reading of that feed does not find it; a server that reads the WAL cannot tell.
            PERFORM sync.record(_owner, 'm', 'd', NEW.id, NEW.created_at);
            _owner := _again;
        END LOOP;
    END IF;
    IF _owner IS NULL AND _former IS NULL AND (row_security_active('public.conversations')) THEN
        -- The parent was deleted, which is recorded instead; or row level security hides it.
        PERFORM sync.refuse_hidden(sync.hidden());
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_message FROM PUBLIC;

-- Applies mutations of rows of kind conversation.
CREATE OR REPLACE FUNCTION sync.write_conversation(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    _key1 uuid := (_key[1])::uuid;
BEGIN
    CASE _op
    WHEN '+' THEN
        INSERT INTO public.conversations (id, user_id, title, created_at, updated_at)
        VALUES (_key1, _owner, _patch ->> 'title'::text, _at, _at)
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM public.conversations t WHERE t.id = _key1 AND t.user_id = _owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        END IF;
    WHEN '~' THEN
        UPDATE public.conversations t SET title = _patch ->> 'title'::text, updated_at = greatest(t.updated_at, _at)
        WHERE t.id = _key1 AND t.user_id = _owner;
        IF NOT FOUND THEN
            RETURN 'unknown_row';
        END IF;
    WHEN '-' THEN
        IF (SELECT count(*) FROM (SELECT FROM public.conversations t JOIN sync.all_messages c ON c.conversation_id = _key1
                                  WHERE t.id = _key1 AND t.user_id = _owner LIMIT sync.portion() + 1) first) > sync.portion() THEN
            DELETE FROM public.messages c USING (
                SELECT c.id, c.created_at FROM public.messages c WHERE c.conversation_id = _key1 ORDER BY c.created_at, c.id LIMIT sync.portion()
            ) old WHERE c.id = old.id AND c.created_at = old.created_at;
            IF FOUND THEN
                RETURN 'more';
            END IF;
            DELETE FROM public.messages_archive c USING (
                SELECT c.id, c.created_at FROM public.messages_archive c WHERE c.conversation_id = _key1 ORDER BY c.created_at, c.id LIMIT sync.portion()
            ) old WHERE c.id = old.id AND c.created_at = old.created_at;
            IF FOUND THEN
                RETURN 'more';
            END IF;
            -- Nothing was deleted: a trigger of the app keeps them.
        END IF;
        DELETE FROM public.conversations t WHERE t.id = _key1 AND t.user_id = _owner;
    END CASE;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.write_conversation FROM PUBLIC;

-- Applies mutations of rows of kind message.
CREATE OR REPLACE FUNCTION sync.write_message(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    _key1 uuid := (_key[1])::uuid;
    _row_at pg_catalog.timestamptz := CASE WHEN _op <> '+' THEN sync.instant(_key[2]) END;
    _parent uuid := (_patch ->> 'conversation_id'::text)::uuid;
    _owns pg_catalog.bool;
BEGIN
    CASE _op
    WHEN '+' THEN
        IF _at < pg_catalog.now() - '27 days'::pg_catalog.interval THEN
            SELECT coalesce((SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner, false) INTO _owns
            FROM public.messages_archive t WHERE t.id = _key1 AND t.created_at = _at;
            IF FOUND THEN
                IF _owns THEN
                    RETURN NULL;
                END IF;
                PERFORM FROM public.conversations o WHERE o.id = _parent AND o.user_id = _owner;
                IF NOT FOUND THEN
                    RETURN 'unknown_parent';
                END IF;
                RETURN 'bad_id';
            END IF;
        END IF;
        INSERT INTO public.messages (id, conversation_id, role, content, created_at, updated_at)
        SELECT _key1, o.id, _patch ->> 'role'::text, _patch ->> 'content'::text, _at, _at
        FROM public.conversations o WHERE o.id = _parent AND o.user_id = _owner
        ON CONFLICT (id, created_at) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM public.conversations o WHERE o.id = _parent AND o.user_id = _owner;
            IF NOT FOUND THEN
                RETURN 'unknown_parent';
            END IF;
            PERFORM FROM public.messages t WHERE t.id = _key1 AND t.created_at = _at AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        ELSE
            UPDATE public.conversations o SET updated_at = _at
            WHERE o.id = _parent AND o.user_id = _owner AND o.updated_at < _at;
        END IF;
    WHEN '~' THEN
        UPDATE public.messages t SET content = _patch ->> 'content'::text, updated_at = greatest(t.updated_at, _at)
        WHERE t.id = _key1 AND t.created_at = _row_at AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner AND t.role::text IN ('user');
        IF NOT FOUND THEN
            UPDATE public.messages_archive t SET content = _patch ->> 'content'::text, updated_at = greatest(t.updated_at, _at)
            WHERE t.id = _key1 AND t.created_at = _row_at AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner AND t.role::text IN ('user');
        END IF;
        IF NOT FOUND THEN
            PERFORM FROM sync.all_messages t WHERE t.id = _key1 AND t.created_at = _row_at AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner;
            IF FOUND THEN
                RETURN 'bad_value';
            END IF;
            RETURN 'unknown_row';
        END IF;
    WHEN '-' THEN
        DELETE FROM public.messages t WHERE t.id = _key1 AND t.created_at = _row_at AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner;
        IF _row_at < pg_catalog.now() - '27 days'::pg_catalog.interval THEN
            DELETE FROM public.messages_archive t WHERE t.id = _key1 AND t.created_at = _row_at AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner;
        END IF;
    END CASE;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.write_message FROM PUBLIC;

-- Applies one mutation: `op` is + (insert), ~ (update) or - (delete), `key` the row's key, of which the second half may
-- be the instant by which a table is partitioned, in microseconds since 1970. Returns NULL, the code of a rejection, or
-- `more`: a part was deleted, and the rest is to be deleted by another call.
CREATE OR REPLACE FUNCTION sync.write(tag text, op text, owner uuid, key text[], patch jsonb, at timestamptz)
RETURNS text LANGUAGE sql AS $$
    SELECT CASE tag
        WHEN 'c' THEN sync.write_conversation(op, owner, key, patch, at)
        WHEN 'm' THEN sync.write_message(op, owner, key, patch, at)
        ELSE 'not_allowed' END
$$;
REVOKE ALL ON FUNCTION sync.write FROM PUBLIC;

-- Whether this user syncs: at most one row.
DROP FUNCTION IF EXISTS sync.admitted(uuid);
CREATE OR REPLACE FUNCTION sync.admitted(owner uuid) RETURNS SETOF boolean
LANGUAGE sql STABLE AS $$
    SELECT q.subscription_tier::text IN ('core', 'studio') FROM public.profiles q WHERE q.id = $1 LIMIT 1
$$;
REVOKE ALL ON FUNCTION sync.admitted FROM PUBLIC;

-- The value of the gate's column by which this user syncs, or not.
CREATE OR REPLACE FUNCTION sync.tier(owner uuid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT (SELECT q.subscription_tier::text FROM public.profiles q WHERE q.id = $1 LIMIT 1)
$$;
REVOKE ALL ON FUNCTION sync.tier FROM PUBLIC;

-- For a stream: whose row this is, and what the column holds. Without a result there is no such row, or the column may
-- not be streamed.
CREATE OR REPLACE FUNCTION sync.streamed(_tag text, _key text[], _name text)
RETURNS TABLE (owner uuid, held text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF _tag = 'm'::text AND _name = 'content'::text THEN
        RETURN QUERY SELECT (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id), t.content::text
        FROM public.messages t WHERE t.id = (_key[1])::uuid;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION sync.streamed FROM PUBLIC;
-- Compares the text of a stream with its row. `_base`: md5 of what the column held when the stream was opened. Returns
-- `gone`, the row is not there or not the user's; `settled`, it has this text or another one of the app; `lags`; or,
-- with `_write`, for one that lags `written`.
CREATE OR REPLACE FUNCTION sync.settle(_tag text, _owner uuid, _key text[], _name text, _text text, _base text,
                                       _state text, _write boolean)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    _held pg_catalog.text;
BEGIN
    IF _tag = 'm'::text AND _name = 'content'::text THEN
        SELECT t.content::text INTO _held FROM public.messages t WHERE t.id = (_key[1])::uuid AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner;
        IF NOT FOUND THEN
            RETURN 'gone';
        END IF;
        IF _text = ''::text THEN
            RETURN 'settled';
        END IF;
        IF _held = _text OR NOT (_held IS NULL OR _held = ''::text OR pg_catalog.md5(_held) IS NOT DISTINCT FROM _base
                                 OR pg_catalog.length(_held) < pg_catalog.length(_text)
                                    AND pg_catalog.starts_with(_text, _held)) THEN
            RETURN 'settled';
        END IF;
        IF NOT _write THEN
            RETURN 'lags';
        END IF;
        UPDATE public.messages t SET content = _text::text, updated_at = greatest(t.updated_at, pg_catalog.now())
        WHERE t.id = (_key[1])::uuid AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = _owner AND t.content::text IS NOT DISTINCT FROM _held;
        RETURN CASE WHEN FOUND THEN 'written'::text ELSE 'lags'::text END;
    END IF;
    RETURN 'gone';
END
$$;
REVOKE ALL ON FUNCTION sync.settle FROM PUBLIC;

GRANT USAGE ON SCHEMA public TO atlas_sync;
GRANT SELECT (id, subscription_tier, subscription_status) ON public.profiles TO atlas_sync;
GRANT SELECT (id, user_id, title, created_at, updated_at) ON public.conversations TO atlas_sync;
GRANT SELECT (id, conversation_id, role, content, created_at, updated_at) ON public.messages TO atlas_sync;
GRANT SELECT (id, conversation_id, role, content, created_at, updated_at) ON public.messages_archive TO atlas_sync;

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.profiles
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_profile();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.profiles
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.subscription_tier, OLD.subscription_status) IS DISTINCT FROM (NEW.id, NEW.subscription_tier, NEW.subscription_status))
    EXECUTE FUNCTION sync.record_profile();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.profiles
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.conversations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_conversation();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.conversations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.user_id, OLD.title, OLD.created_at, OLD.updated_at) IS DISTINCT FROM (NEW.id, NEW.user_id, NEW.title, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.record_conversation();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.conversations
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.messages
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_message();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.messages
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at) IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.record_message();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.messages
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.messages_archive
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_message();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.messages_archive
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at) IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.record_message();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.messages_archive
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('public', 'profiles', 'profile', 'p', ARRAY['id', 'subscription_tier', 'subscription_status'], ARRAY['uuid', 'text', 'text'], ARRAY['id', 'subscription_tier', 'subscription_status'], 0, 'WHEN ((OLD.id, OLD.subscription_tier, OLD.subscription_status) IS DISTINCT FROM (NEW.id, NEW.subscription_tier, NEW.subscription_status))', '04f4d91a896078e7e68daf53a03be73c', false, true, false);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('public', 'conversations', 'conversation', 'c', ARRAY['id', 'user_id', 'title', 'created_at', 'updated_at'], ARRAY['uuid', 'uuid', 'text', 'timestamp with time zone', 'timestamp with time zone'], ARRAY['id', 'user_id', 'title', 'created_at', 'updated_at'], 0, 'WHEN ((OLD.id, OLD.user_id, OLD.title, OLD.created_at, OLD.updated_at) IS DISTINCT FROM (NEW.id, NEW.user_id, NEW.title, NEW.created_at, NEW.updated_at))', '6bdb7de20e50dd9243a03dd53fe53ede', true, true, false);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('public', 'messages', 'message', 'm', ARRAY['id', 'conversation_id', 'role', 'content', 'created_at', 'updated_at'], ARRAY['uuid', 'uuid', 'text', 'text', 'timestamp with time zone', 'timestamp with time zone'], ARRAY['id', 'conversation_id', 'role', 'content', 'created_at', 'updated_at'], 0, 'WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at) IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))', '32b311a1cd6ca6381a8236bd86e79e67', true, true, true);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('public', 'messages_archive', 'message', 'm', ARRAY['id', 'conversation_id', 'role', 'content', 'created_at', 'updated_at'], ARRAY['uuid', 'uuid', 'text', 'text', 'timestamp with time zone', 'timestamp with time zone'], ARRAY['id', 'conversation_id', 'role', 'content', 'created_at', 'updated_at'], 0, 'WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at) IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))', '56df02ce15671f68ddeb2f5df6c0fd3c', true, true, true);

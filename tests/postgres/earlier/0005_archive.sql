-- Old months of messages move into an archive as they are; partitions are made, and dropped, by `atlas-sync maintain`.

-- Messages older than some months: the same rows in the same files, in a table that a live feed never has to open. It
-- takes the app's changes to old messages, and records them, but no new rows.
CREATE TABLE public.messages_archive (
    LIKE public.messages INCLUDING ALL,
    FOREIGN KEY (conversation_id) REFERENCES public.conversations ON DELETE CASCADE
) PARTITION BY RANGE (created_at);
ALTER TABLE public.messages_archive ENABLE ROW LEVEL SECURITY;
CREATE POLICY atlas_own_messages ON public.messages_archive FOR ALL TO authenticated
    USING (EXISTS (SELECT FROM public.conversations c
                   WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())))
    WITH CHECK (EXISTS (SELECT FROM public.conversations c
                        WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())));
CREATE POLICY atlas_sync_reads ON public.messages_archive FOR SELECT TO atlas_sync USING (true);

-- Whoever may read or change messages may do so here, and nobody else, whatever this schema's default rights are.
DO $$
DECLARE
    may record;
    who text;
BEGIN
    FOR who IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
               FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = 'public.messages_archive'::regclass AND a.grantee <> c.relowner LOOP
        EXECUTE 'REVOKE ALL ON public.messages_archive FROM ' || who;
    END LOOP;
    FOR may IN SELECT a.privilege_type, a.grantee FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = 'public.messages'::regclass AND a.grantee <> c.relowner
                 AND a.privilege_type IN ('SELECT', 'UPDATE', 'DELETE') LOOP
        EXECUTE format('GRANT %s ON public.messages_archive TO %s', may.privilege_type,
                       CASE may.grantee WHEN 0 THEN 'PUBLIC' ELSE may.grantee::regrole::text END);
    END LOOP;
    FOR may IN SELECT x.privilege_type, x.grantee, a.attname FROM pg_attribute a, aclexplode(a.attacl) x
               WHERE a.attrelid = 'public.messages'::regclass AND x.privilege_type IN ('SELECT', 'UPDATE') LOOP
        EXECUTE format('GRANT %s (%I) ON public.messages_archive TO %s', may.privilege_type, may.attname,
                       CASE may.grantee WHEN 0 THEN 'PUBLIC' ELSE may.grantee::regrole::text END);
    END LOOP;
END
$$;

-- And whatever the app's policies show or hide there, they show or hide here.
DO $$
DECLARE
    theirs record;
BEGIN
    FOR theirs IN SELECT p.polname, p.polpermissive, p.polcmd,
                         (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ')
                          FROM unnest(p.polroles) r) AS roles,
                         regexp_replace(pg_get_expr(p.polqual, p.polrelid), '\mmessages\.', 'messages_archive.', 'g') AS uses,
                         regexp_replace(pg_get_expr(p.polwithcheck, p.polrelid), '\mmessages\.', 'messages_archive.', 'g')
                             AS checks
                  FROM pg_policy p WHERE p.polrelid = 'public.messages'::regclass
                    AND p.polname NOT IN ('atlas_own_messages', 'atlas_sync_reads') AND p.polcmd <> 'a' LOOP
        EXECUTE format('CREATE POLICY %I ON public.messages_archive AS %s FOR %s TO %s %s %s', theirs.polname,
                       CASE WHEN theirs.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE theirs.polcmd WHEN 'r' THEN 'SELECT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                       theirs.roles, coalesce('USING (' || theirs.uses || ')', ''),
                       coalesce('WITH CHECK (' || theirs.checks || ')', ''));
    END LOOP;
END
$$;

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.messages_archive
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.message_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.messages_archive
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at)
          IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.message_changed();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.messages_archive
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

-- Nothing in the archive is as young as this; what is in `messages` may be older, in its default partition.
ALTER TABLE sync.meta ADD COLUMN archived_until timestamptz NOT NULL DEFAULT '-infinity';

-- `sync.vitals` tells whether rows strayed; nobody has to look for himself.
DROP POLICY atlas_sync_reads ON sync.messages_default;
REVOKE SELECT ON sync.messages_default, sync.log_default FROM atlas_sync;

-- All messages, wherever they are. With its owner's rights: for the server only.
CREATE VIEW sync.all_messages AS
    SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages
    UNION ALL
    SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages_archive;
GRANT SELECT ON sync.all_messages TO atlas_sync;

-- Nobody but their owner reaches rows through a partition; and row level security of the parent does not count there, so
-- it has its own, with no policy at all. Statement triggers are not cloned.
CREATE FUNCTION sync.close_partition(of text, part text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF of <> 'log' THEN
        EXECUTE pg_catalog.format('ALTER TABLE sync.%I ENABLE ROW LEVEL SECURITY', part);
        EXECUTE pg_catalog.format('CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON sync.%I '
                                  'FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', part);
    END IF;
END
$$;

-- Makes the partition that begins with `since` (the first of a month, in the log a Monday, UTC), unless there is one,
-- and moves the rows into it that strayed into the default partition. They change places and nothing else: no trigger
-- runs, so no device hears of it. Returns how many moved, or NULL if nothing was to be made.
--
-- LIKE and ATTACH instead of PARTITION OF, because that locks the parent against everybody. This locks the default
-- partition against everybody, and conversations against writers, for a few milliseconds; but while strays move, which
-- takes longer, and where the time has begun, so that rows are on their way, the parent too.
CREATE FUNCTION sync.make_partition(of text, since timestamptz, moves boolean DEFAULT true) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    parent pg_catalog.regclass := CASE of WHEN 'log' THEN 'sync' ELSE 'public' END || '.' || of;
    stray pg_catalog.regclass := CASE of WHEN 'log' THEN 'sync.log_default' ELSE 'sync.messages_default' END;
    ending timestamptz := since + CASE of WHEN 'log' THEN interval '1 week' ELSE interval '1 month' END;
    part text := of || pg_catalog.to_char(since, CASE of WHEN 'log' THEN '_IYYY_"w"IW' ELSE '_YYYY_MM' END);
    first text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(since)::text ELSE since::text END);
    beyond text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(ending)::text ELSE ending::text END);
    key text := CASE of WHEN 'log' THEN 'seq' ELSE 'created_at' END;
    look text;
    strayed boolean;
    moved bigint := 0;
BEGIN
    -- A month that is archived gets no second partition in messages: its strays belong into the archive.
    IF EXISTS (SELECT FROM sync.partitions p
               WHERE (p.parent = of OR of LIKE 'messages%' AND p.parent LIKE 'messages%')
                 AND p.since < ending AND p.until > make_partition.since) THEN
        RETURN NULL;
    END IF;
    look := pg_catalog.format('SELECT EXISTS (SELECT FROM %s WHERE %I >= %s AND %I < %s)', stray, key, first, key, beyond);
    EXECUTE look INTO strayed;
    IF strayed AND NOT moves THEN
        RETURN NULL;
    END IF;
    IF strayed OR make_partition.since <= now() THEN
        -- Whoever is about to read has read which partitions there are, and would not find the rows in one more; and
        -- whoever is about to write would write to the default partition, which refuses the row then.
        EXECUTE pg_catalog.format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
    END IF;
    -- Locks are at once as strong as they are wanted later: were one made stronger, a transaction that has read and now
    -- writes would be in a deadlock.
    EXECUTE pg_catalog.format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', stray);
    IF NOT strayed THEN
        EXECUTE look INTO strayed;
        IF strayed THEN
            RAISE lock_not_available USING MESSAGE = 'rows strayed at this moment';
        END IF;
    END IF;
    EXECUTE pg_catalog.format('CREATE TABLE sync.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', part, parent);
    PERFORM sync.close_partition(of, part);
    IF strayed THEN
        moved := sync.move_strays(stray, pg_catalog.format('sync.%I', part)::pg_catalog.regclass, key, first, beyond);
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION sync.%I FOR VALUES FROM (%s) TO (%s)',
                              parent, part, first, beyond);
    IF of = 'messages_archive' THEN
        UPDATE sync.meta SET archived_until = ending WHERE archived_until < ending;
    END IF;
    RETURN moved;
END
$$;

-- Moves rows of a default partition to another table. No trigger runs, of the app's neither; whoever writes to the
-- default partition waits. Should the archive hold an older version of a row, this one replaces it; but not somebody
-- else's row with the same key, beside which it stays where it is.
CREATE FUNCTION sync.move_strays(stray regclass, target regclass, key text, first text, beyond text) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET lock_timeout = '200ms' AS $$
DECLARE
    tables pg_catalog.regclass[];
    triggers text[];
    columns text;
    replaces text;
    others text;
    moved bigint;
BEGIN
    EXECUTE pg_catalog.format('LOCK TABLE %s, %s IN SHARE ROW EXCLUSIVE MODE', stray, target);
    SELECT coalesce(pg_catalog.array_agg(tgrelid::pg_catalog.regclass), '{}'), coalesce(pg_catalog.array_agg(tgname::text), '{}')
    INTO tables, triggers
    FROM pg_catalog.pg_trigger WHERE tgrelid IN (stray, target) AND NOT tgisinternal AND tgenabled = 'O';
    FOR i IN 1 .. pg_catalog.cardinality(tables) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', tables[i], triggers[i]);
    END LOOP;
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', '),
           pg_catalog.string_agg(pg_catalog.format('%1$I = excluded.%1$I', attname), ', ')
    INTO columns, replaces
    FROM pg_catalog.pg_attribute WHERE attrelid = stray AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    IF key = 'created_at' THEN
        replaces := 'ON CONFLICT (id, created_at) DO UPDATE SET ' || replaces;
        others := pg_catalog.format('AND NOT EXISTS (SELECT FROM %s t JOIN public.conversations a ON a.id = t.conversation_id '
                                    'JOIN public.conversations b ON b.id = s.conversation_id WHERE t.id = s.id '
                                    'AND t.created_at = s.created_at AND a.user_id IS DISTINCT FROM b.user_id)', target);
    ELSE
        replaces := '';
    END IF;
    EXECUTE pg_catalog.format('WITH gone AS (DELETE FROM %s s WHERE s.%I >= %s AND s.%I < %s %s RETURNING s.*) '
                              'INSERT INTO %s (%s) SELECT %s FROM gone %s',
                              stray, key, first, key, beyond, others, target, columns, columns, replaces);
    GET DIAGNOSTICS moved = ROW_COUNT;
    FOR i IN 1 .. pg_catalog.cardinality(tables) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE TRIGGER %I', tables[i], triggers[i]);
    END LOOP;
    RETURN moved;
END
$$;

-- Makes the default partition, as it is, the one from `since` to `ending`, and a new one in its place: for so many strays
-- that moving them would hold up writers. All its rows must lie in that range, and are read under the lock (1 s for 13
-- million).
CREATE FUNCTION sync.turn_default(of text, since timestamptz, ending timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    parent pg_catalog.regclass := CASE of WHEN 'log' THEN 'sync' ELSE 'public' END || '.' || of;
    stray text := of || '_default';
    part text := of || pg_catalog.to_char(since, CASE of WHEN 'log' THEN '_IYYY_"w"IW_on' ELSE '_YYYY_MM_on' END);
    first text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(since)::text ELSE since::text END);
    beyond text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(ending)::text ELSE ending::text END);
BEGIN
    IF of <> 'log' THEN
        LOCK TABLE public.conversations IN ACCESS EXCLUSIVE MODE;  -- as in archive_partition
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE %s DETACH PARTITION sync.%I', parent, stray);
    EXECUTE pg_catalog.format('ALTER TABLE sync.%I RENAME TO %I', stray, part);
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION sync.%I FOR VALUES FROM (%s) TO (%s)',
                              parent, part, first, beyond);
    EXECUTE pg_catalog.format('CREATE TABLE sync.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', stray, parent);
    PERFORM sync.close_partition(of, stray);
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION sync.%I DEFAULT', parent, stray);
END
$$;

-- Every month of messages, and every week of the log, that [since, until] touches, but for those of which rows strayed:
-- moving them is for `maintain`. What is past in the log was recorded where it was recorded.
CREATE OR REPLACE FUNCTION sync.ensure_partitions(since timestamptz, until timestamptz) RETURNS int
LANGUAGE sql SET search_path = '' SET timezone = 'UTC' AS $$
    SELECT count(moved)::int
    FROM (SELECT sync.make_partition('messages', month, false) AS moved
          FROM pg_catalog.generate_series(pg_catalog.date_trunc('month', since), until, interval '1 month') AS month
          UNION ALL
          SELECT sync.make_partition('log', week, false)
          FROM pg_catalog.generate_series(pg_catalog.date_trunc('week', greatest(since, now())), until, interval '1 week') AS week
         ) AS made
$$;

-- Moves a partition of messages, as it is, into the archive: at one moment for every reader, and recorded as nothing.
-- (DETACH … CONCURRENTLY is refused where there is a default partition, and would leave its rows nowhere for a while.)
-- A validated constraint `atlas_bounds` on the partition, of `sync.bound_partition`, saves a scan under the lock.
CREATE FUNCTION sync.archive_partition(part regclass) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET lock_timeout = '200ms' AS $$
DECLARE
    bound text := pg_catalog.pg_get_expr((SELECT relpartbound FROM pg_catalog.pg_class WHERE oid = part), part);
    archived timestamptz := (SELECT p.until FROM sync.partitions p WHERE p.partition = part);
BEGIN
    -- The partition's foreign key takes a weaker lock of it and then this one, and whoever has read it and writes in
    -- between would be in a deadlock.
    LOCK TABLE public.conversations IN ACCESS EXCLUSIVE MODE;
    EXECUTE pg_catalog.format('ALTER TABLE public.messages DETACH PARTITION %s', part);
    EXECUTE pg_catalog.format('ALTER TABLE public.messages_archive ATTACH PARTITION %s %s', part, bound);
    EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS atlas_bounds', part);
    UPDATE sync.meta SET archived_until = archived WHERE archived_until < archived;
END
$$;

-- The partition's bounds as a constraint that is not yet validated; VALIDATE CONSTRAINT then reads it beside everybody.
CREATE FUNCTION sync.bound_partition(part regclass) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET lock_timeout = '200ms' AS $$
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT atlas_bounds CHECK (%s) NOT VALID', part,
                              pg_catalog.pg_get_partition_constraintdef(part));
END
$$;

-- As in 0003, and what was archived meanwhile is found where it is.
CREATE OR REPLACE FUNCTION sync.apply(owner uuid, kind text, row_id uuid, parent uuid, role text, body text,
                                      at timestamptz, row_at timestamptz) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    owns boolean;
BEGIN
    CASE kind
    WHEN '+m' THEN
        -- No month is archived before it is over.
        IF at < now() - interval '27 days' THEN
            SELECT c.user_id = owner INTO owns
            FROM public.messages_archive m JOIN public.conversations c ON c.id = m.conversation_id
            WHERE m.id = row_id AND m.created_at = at;
            IF owns THEN
                RETURN NULL;
            ELSIF FOUND THEN
                PERFORM FROM public.conversations c WHERE c.id = parent AND c.user_id = owner;
                RETURN CASE WHEN FOUND THEN 'bad_id' ELSE 'unknown_conversation' END;
            END IF;
        END IF;
        INSERT INTO public.messages (id, conversation_id, role, content, created_at, updated_at)
        SELECT row_id, c.id, apply.role, body, at, at
        FROM public.conversations c WHERE c.id = parent AND c.user_id = owner
        ON CONFLICT (id, created_at) DO NOTHING;
        IF FOUND THEN
            UPDATE public.conversations c SET updated_at = at
            WHERE c.id = parent AND c.user_id = owner AND c.updated_at < at;
            RETURN NULL;
        END IF;
        PERFORM FROM public.conversations c WHERE c.id = parent AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'unknown_conversation';
        END IF;
        PERFORM FROM public.messages m JOIN public.conversations c ON c.id = m.conversation_id
        WHERE m.id = row_id AND m.created_at = at AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'bad_id';
        END IF;
    WHEN '~m' THEN
        UPDATE public.messages m SET content = body, updated_at = greatest(m.updated_at, at)
        FROM public.conversations c
        WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
        IF NOT FOUND THEN
            UPDATE public.messages_archive m SET content = body, updated_at = greatest(m.updated_at, at)
            FROM public.conversations c
            WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
        END IF;
        IF NOT FOUND THEN
            RETURN 'unknown_message';
        END IF;
    WHEN '-m' THEN
        DELETE FROM public.messages m USING public.conversations c
        WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
        -- In both, should SQL of the app have inserted an archived message anew.
        IF row_at < now() - interval '27 days' THEN
            DELETE FROM public.messages_archive m USING public.conversations c
            WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
        END IF;
    WHEN '+c' THEN
        INSERT INTO public.conversations (id, user_id, title, created_at, updated_at)
        VALUES (row_id, owner, body, at, at)
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM public.conversations c WHERE c.id = row_id AND c.user_id = owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        END IF;
    WHEN '~c' THEN
        UPDATE public.conversations c SET title = body, updated_at = greatest(c.updated_at, at)
        WHERE c.id = row_id AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'unknown_conversation';
        END IF;
    WHEN '-c' THEN
        DELETE FROM public.conversations c WHERE c.id = row_id AND c.user_id = owner;
    WHEN '!' THEN
        RETURN body;  -- the server's rules refused it; it only consumes its number
    END CASE;
    RETURN NULL;
END
$$;

-- A conversation may belong to nobody, in tables that were there before us. It is recorded from when somebody has it
-- on, with its messages; and it is gone for who had it before.
CREATE OR REPLACE FUNCTION sync.conversation_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
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
            PERFORM sync.record(NEW.user_id, 'm', 'u', m.id, m.created_at)
            FROM sync.all_messages m WHERE m.conversation_id = NEW.id;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- Partitions that were there before us know nothing of this.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'public.messages'::regclass
                AND NOT EXISTS (SELECT FROM pg_trigger g
                                WHERE g.tgrelid = i.inhrelid AND g.tgname = 'atlas_sync_refuse_truncate') LOOP
        EXECUTE format('CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', part);
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION sync.close_partition, sync.turn_default, sync.make_partition, sync.move_strays, sync.ensure_partitions, sync.archive_partition,
    sync.bound_partition, sync.apply FROM PUBLIC;

-- The chat schema, where its tables are absent; its partitions and archive; its row policies; and what Supabase provides,
-- where Supabase is absent. `migrate` runs it once, if the declaration asks for partitions of public.messages.

-- auth.uid() as Supabase has it.
DO $$
BEGIN
    IF pg_catalog.to_regprocedure('auth.uid()') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS auth;
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $uid$
            SELECT (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
        $uid$;
        GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS public.profiles (
    id                  uuid PRIMARY KEY,
    email               text UNIQUE,
    subscription_tier   text NOT NULL DEFAULT 'free' CHECK (subscription_tier IN ('free', 'core', 'studio')),
    subscription_status text,
    usage_stats         jsonb NOT NULL DEFAULT '{}',
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.conversations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id    uuid NOT NULL REFERENCES public.profiles ON DELETE CASCADE,
    title      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.messages (
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES public.conversations ON DELETE CASCADE,
    role            text NOT NULL CHECK (role IN ('user', 'assistant', 'system')),
    content         text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

-- A table of that name with another structure must stop the migration here, before anything depends on it.
DO $$
DECLARE
    missing text;
BEGIN
    SELECT string_agg(want.tab || '.' || want.col, ', ' ORDER BY want.tab, want.col) INTO missing
    FROM (VALUES ('profiles', 'id'), ('profiles', 'subscription_tier'), ('profiles', 'subscription_status'),
                 ('conversations', 'id'), ('conversations', 'user_id'), ('conversations', 'title'),
                 ('conversations', 'created_at'), ('conversations', 'updated_at'),
                 ('messages', 'id'), ('messages', 'conversation_id'), ('messages', 'role'), ('messages', 'content'),
                 ('messages', 'created_at'), ('messages', 'updated_at')) AS want (tab, col)
    WHERE NOT EXISTS (SELECT FROM pg_attribute
                      WHERE attrelid = ('public.' || want.tab)::regclass AND attname = want.col AND NOT attisdropped);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'The app''s tables lack these columns: %. Add them, then migrate again.', missing;
    END IF;
    IF (SELECT relkind FROM pg_class WHERE oid = 'public.messages'::regclass) <> 'p' THEN
        RAISE EXCEPTION 'public.messages exists and is not PARTITION BY RANGE (created_at). Atlas Sync needs it so; '
                        'turn it into a partitioned table, then migrate again.';
    END IF;
END
$$;

-- Devices read history page by page along these two indexes (keyset pagination).
CREATE INDEX IF NOT EXISTS conversations_newest ON public.conversations (user_id, updated_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS messages_newest ON public.messages (conversation_id, created_at DESC, id DESC);

-- Row level security: end users reach only their own rows, whichever way they connect. They may not change their tier.
ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;

-- auth.uid() stands in a subselect so that it is evaluated once per statement and not once per row.
DROP POLICY IF EXISTS atlas_own_profile ON public.profiles;
CREATE POLICY atlas_own_profile ON public.profiles FOR SELECT TO authenticated
    USING (id = (SELECT auth.uid()));
DROP POLICY IF EXISTS atlas_own_conversations ON public.conversations;
CREATE POLICY atlas_own_conversations ON public.conversations FOR ALL TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
DROP POLICY IF EXISTS atlas_own_messages ON public.messages;
CREATE POLICY atlas_own_messages ON public.messages FOR ALL TO authenticated
    USING (EXISTS (SELECT FROM public.conversations c
                   WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())))
    WITH CHECK (EXISTS (SELECT FROM public.conversations c
                        WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())));
GRANT USAGE ON SCHEMA public TO authenticated, atlas_sync;
GRANT SELECT ON public.profiles TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.conversations, public.messages TO authenticated;

-- atlas_sync has the rights that the server needs and no others: it reads. Make the server's login a member of it.
-- A policy that is there stays: one that is created anew begins another history.
DO $$
DECLARE
    tab regclass;
BEGIN
    FOREACH tab IN ARRAY ARRAY['public.profiles', 'public.conversations', 'public.messages']::regclass[] LOOP
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = tab AND polname = 'atlas_sync_reads') THEN
            EXECUTE format('CREATE POLICY atlas_sync_reads ON %s FOR SELECT TO atlas_sync USING (true)', tab);
        END IF;
    END LOOP;
END
$$;
GRANT SELECT ON public.conversations, public.messages TO atlas_sync;

DO $$
DECLARE
    -- A table that the app had partitioned may have a default partition already.
    theirs regclass := (SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                        WHERE i.inhparent = 'public.messages'::regclass
                          AND pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT');
BEGIN
    IF theirs IS NULL THEN
        CREATE TABLE public.messages_default PARTITION OF public.messages DEFAULT;
    ELSE
        IF (SELECT relnamespace <> 'public'::regnamespace FROM pg_class WHERE oid = theirs) THEN
            EXECUTE format('ALTER TABLE %s SET SCHEMA public', theirs);
        END IF;
        IF (SELECT relname <> 'messages_default' FROM pg_class WHERE oid = theirs) THEN
            EXECUTE format('ALTER TABLE %s RENAME TO messages_default', theirs);
        END IF;
    END IF;
    PERFORM sync.close_partition('messages', 'messages_default');
END
$$;
-- Earlier versions let the server read it.
DROP POLICY IF EXISTS atlas_sync_reads ON public.messages_default;

-- Messages older than some months: the same rows in the same files, in a table that a live feed never has to open. The app
-- may change and delete messages here, and the changes are recorded. It may not insert any.
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

-- The roles that may read or change messages may do so here, and no others, whatever the default rights of this schema
-- are.
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

-- The app's row policies on messages apply here too. Only the table's name outside of string constants is replaced.
DO $$
DECLARE
    theirs record;
    -- A string constant, a quoted name, or the text between them.
    token constant text := '''(?:[^'']|'''')*''|"(?:[^"]|"")*"|[^''"]+';
BEGIN
    FOR theirs IN
        SELECT p.polname, p.polpermissive, p.polcmd,
               (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ') FROM unnest(p.polroles) r) AS roles,
               here.uses, here.checks
        FROM pg_policy p
        CROSS JOIN LATERAL (
            SELECT max(said.text) FILTER (WHERE said.kind = 'USING') AS uses,
                   max(said.text) FILTER (WHERE said.kind = 'CHECK') AS checks
            FROM (
                SELECT e.kind, string_agg(CASE WHEN t.part[1] ~ '^[''"]' THEN t.part[1]
                                               ELSE regexp_replace(t.part[1], '\mmessages\.', 'messages_archive.', 'g') END,
                                          '' ORDER BY t.i) AS text
                FROM (VALUES ('USING', p.polqual), ('CHECK', p.polwithcheck)) AS e (kind, tree)
                CROSS JOIN LATERAL regexp_matches(pg_get_expr(e.tree, p.polrelid), token, 'g') WITH ORDINALITY AS t (part, i)
                GROUP BY e.kind
            ) said
        ) here
        WHERE p.polrelid = 'public.messages'::regclass
          AND p.polname NOT IN ('atlas_own_messages', 'atlas_sync_reads') AND p.polcmd <> 'a'
    LOOP
        EXECUTE format('CREATE POLICY %I ON public.messages_archive AS %s FOR %s TO %s %s %s', theirs.polname,
                       CASE WHEN theirs.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE theirs.polcmd WHEN 'r' THEN 'SELECT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                       theirs.roles, coalesce('USING (' || theirs.uses || ')', ''),
                       coalesce('WITH CHECK (' || theirs.checks || ')', ''));
    END LOOP;
END
$$;

-- Partitions that the app had made lack the trigger that refuses TRUNCATE.
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

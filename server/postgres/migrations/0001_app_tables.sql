-- The chat app's tables, where they are absent, and what Supabase provides, where Supabase is absent.

-- auth.uid() as Supabase has it.
DO $$
BEGIN
    IF pg_catalog.to_regprocedure('auth.uid()') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS auth;
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE SET search_path = '' AS $uid$
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
CREATE POLICY atlas_own_profile ON public.profiles FOR SELECT TO authenticated
    USING (id = (SELECT auth.uid()));
CREATE POLICY atlas_own_conversations ON public.conversations FOR ALL TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY atlas_own_messages ON public.messages FOR ALL TO authenticated
    USING (EXISTS (SELECT FROM public.conversations c
                   WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())))
    WITH CHECK (EXISTS (SELECT FROM public.conversations c
                        WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())));
GRANT USAGE ON SCHEMA public TO authenticated, atlas_sync;
GRANT SELECT ON public.profiles TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.conversations, public.messages TO authenticated;

-- atlas_sync has the rights that the server needs and no others: it reads. Make the server's login a member of it.
CREATE POLICY atlas_sync_reads ON public.profiles FOR SELECT TO atlas_sync USING (true);
CREATE POLICY atlas_sync_reads ON public.conversations FOR SELECT TO atlas_sync USING (true);
CREATE POLICY atlas_sync_reads ON public.messages FOR SELECT TO atlas_sync USING (true);
GRANT SELECT (id, subscription_tier, subscription_status) ON public.profiles TO atlas_sync;
GRANT SELECT ON public.conversations, public.messages TO atlas_sync;

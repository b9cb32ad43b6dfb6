-- The chat app on Supabase, as it was before it was synced.

-- What Supabase provides.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text UNIQUE, created_at timestamptz DEFAULT now());
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;

CREATE TABLE public.profiles (
    id uuid PRIMARY KEY REFERENCES auth.users (id) ON DELETE CASCADE,
    email text UNIQUE,
    subscription_tier text DEFAULT 'free',
    subscription_status text,
    usage_stats jsonb,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz
);
CREATE FUNCTION public.handle_new_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    INSERT INTO public.profiles (id, email) VALUES (NEW.id, NEW.email);
    RETURN NEW;
END
$$;
CREATE TRIGGER on_auth_user_created AFTER INSERT ON auth.users
    FOR EACH ROW EXECUTE FUNCTION public.handle_new_user();

CREATE TABLE public.conversations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid REFERENCES public.profiles (id) ON DELETE CASCADE,
    title text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE INDEX conversations_user_id_idx ON public.conversations (user_id);
CREATE INDEX conversations_updated_at_idx ON public.conversations (updated_at DESC);

CREATE TABLE public.messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid REFERENCES public.conversations (id) ON DELETE CASCADE,
    role text CHECK (role IN ('user', 'assistant', 'system')),
    content text,
    metadata jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now()
);
CREATE INDEX messages_conversation_id_idx ON public.messages (conversation_id);
CREATE INDEX messages_created_at_idx ON public.messages (created_at);
CREATE INDEX messages_metadata_idx ON public.messages USING gin (metadata jsonb_path_ops);
COMMENT ON COLUMN public.messages.metadata IS 'model, tokens, latency';

CREATE FUNCTION public.touch_conversation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.conversations SET updated_at = now() WHERE id = NEW.conversation_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER messages_touch_conversation AFTER INSERT ON public.messages
    FOR EACH ROW EXECUTE FUNCTION public.touch_conversation();

CREATE TABLE public.votes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    message_id uuid NOT NULL REFERENCES public.messages (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    value smallint NOT NULL CHECK (value IN (-1, 1)),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (message_id, user_id)
);
CREATE TABLE public.attachments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    message_id uuid NOT NULL REFERENCES public.messages (id) ON DELETE CASCADE,
    file_name text NOT NULL,
    mime_type character varying(255),
    byte_size bigint,
    checksum bytea,
    storage_path text NOT NULL,
    created_at timestamptz DEFAULT now()
);
CREATE INDEX attachments_message_id_idx ON public.attachments (message_id);

CREATE TABLE public.daily_usage (
    id bigserial PRIMARY KEY,
    user_id uuid REFERENCES public.profiles (id) ON DELETE CASCADE,
    date date,
    conversations_count int DEFAULT 0,
    total_tokens_used int DEFAULT 0,
    api_cost_estimate decimal(10, 4) DEFAULT 0,
    tier text,
    UNIQUE (user_id, date)
);
CREATE TABLE public.usage_logs (
    id bigserial PRIMARY KEY, user_id uuid, event text, data jsonb, timestamp timestamptz DEFAULT now()
);

CREATE VIEW public.conversation_overview WITH (security_invoker = true) AS
    SELECT c.id, c.user_id, c.title, count(m.id) AS messages, max(m.created_at) AS last_message_at
    FROM public.conversations c LEFT JOIN public.messages m ON m.conversation_id = c.id
    GROUP BY c.id;

GRANT SELECT, INSERT, UPDATE, DELETE ON public.conversations, public.votes TO authenticated;
GRANT SELECT, INSERT ON public.messages, public.attachments TO authenticated;
GRANT SELECT ON public.profiles, public.daily_usage, public.conversation_overview TO authenticated;
GRANT ALL ON ALL TABLES IN SCHEMA public TO service_role;

ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.votes ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.attachments ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.daily_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_logs ENABLE ROW LEVEL SECURITY;

CREATE POLICY "Users can view own profile" ON public.profiles FOR SELECT USING (auth.uid() = id);
CREATE POLICY "Users can view own conversations" ON public.conversations FOR SELECT USING (auth.uid() = user_id);
CREATE POLICY "Users can create own conversations" ON public.conversations
    FOR INSERT WITH CHECK (auth.uid() = user_id);
CREATE POLICY "Users can update own conversations" ON public.conversations FOR UPDATE USING (auth.uid() = user_id);
CREATE POLICY "Users can delete own conversations" ON public.conversations FOR DELETE USING (auth.uid() = user_id);
CREATE POLICY "Users can view own messages" ON public.messages FOR SELECT TO authenticated
    USING (EXISTS (SELECT FROM public.conversations c WHERE c.id = conversation_id AND c.user_id = auth.uid()));
CREATE POLICY "Users can write in own conversations" ON public.messages FOR INSERT TO authenticated
    WITH CHECK (role = 'user' AND EXISTS (
        SELECT FROM public.conversations c WHERE c.id = conversation_id AND c.user_id = auth.uid()));
CREATE POLICY "Users can manage own votes" ON public.votes TO authenticated
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
CREATE POLICY "Users can view own attachments" ON public.attachments FOR SELECT TO authenticated
    USING (EXISTS (SELECT FROM public.messages m WHERE m.id = message_id));
CREATE POLICY "Users can view own usage" ON public.daily_usage FOR SELECT USING (auth.uid() = user_id);

CREATE PUBLICATION supabase_realtime FOR TABLE public.conversations, public.messages;

-- The chat app as it was on Supabase, with what it had beside the three tables.
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text, encrypted_password text);
CREATE SCHEMA storage;
CREATE TABLE storage.objects (id uuid PRIMARY KEY, owner_id text, name text);
CREATE TABLE public.profiles (
    id uuid PRIMARY KEY REFERENCES auth.users ON DELETE CASCADE, email text UNIQUE, subscription_tier text,
    subscription_status text, stripe_customer_id text, usage_stats jsonb, created_at timestamptz, updated_at timestamptz
);
CREATE TABLE public.conversations (
    id uuid PRIMARY KEY, user_id uuid REFERENCES public.profiles (id), title text, metadata jsonb,
    created_at timestamptz, updated_at timestamptz
);
CREATE TABLE public.messages (
    id uuid PRIMARY KEY, conversation_id uuid REFERENCES public.conversations (id), role text, content text,
    metadata jsonb, created_at timestamptz
);
CREATE TABLE public.votes (
    id bigserial PRIMARY KEY, message_id uuid NOT NULL REFERENCES public.messages ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users, up boolean NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.attachments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), message_id uuid NOT NULL REFERENCES public.messages ON DELETE CASCADE,
    path text NOT NULL, bytes bigint NOT NULL, checksum bytea, sizes int[], created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.daily_usage (
    id bigserial PRIMARY KEY, user_id uuid, date date, conversations_count int, total_tokens_used int,
    api_cost_estimate numeric(10, 4), tier text, UNIQUE (user_id, date)
);
CREATE TABLE public.usage_logs (
    id bigserial PRIMARY KEY, user_id uuid, event text, data jsonb, "timestamp" timestamptz
);
CREATE VIEW public.recent AS SELECT * FROM public.messages WHERE created_at > now() - interval '1 day';

-- The chat schema, as `atlas-sync migrate` makes it in an empty database.
CREATE TABLE public.profiles (
    id                  uuid PRIMARY KEY,
    email               text UNIQUE,
    subscription_tier   text NOT NULL DEFAULT 'free' CHECK (subscription_tier IN ('free', 'core', 'studio')),
    subscription_status text,
    usage_stats         jsonb NOT NULL DEFAULT '{}',
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.conversations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id    uuid NOT NULL REFERENCES public.profiles ON DELETE CASCADE,
    title      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.messages (
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES public.conversations ON DELETE CASCADE,
    role            text NOT NULL CHECK (role IN ('user', 'assistant', 'system')),
    content         text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE public.messages_2026_11 PARTITION OF public.messages FOR VALUES FROM ('2026-11-01') TO ('2026-12-01');
CREATE INDEX conversations_newest ON public.conversations (user_id, updated_at DESC, id DESC);
CREATE INDEX messages_newest ON public.messages (conversation_id, created_at DESC, id DESC);

-- A large AI chat: text ids, topics and threads, messages that refer to messages, much JSON.
CREATE TABLE users (id text PRIMARY KEY, email text, clerk_secret text, preference jsonb);
CREATE TABLE sessions (
    id text PRIMARY KEY, slug varchar(100) NOT NULL, title text, pinned boolean DEFAULT false,
    user_id text NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE topics (
    id text PRIMARY KEY, title text, favorite boolean DEFAULT false, session_id text REFERENCES sessions ON DELETE CASCADE,
    user_id text NOT NULL REFERENCES users ON DELETE CASCADE, history_summary text, metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE threads (
    id text PRIMARY KEY, title text, type text NOT NULL, status text DEFAULT 'active',
    topic_id text NOT NULL REFERENCES topics ON DELETE CASCADE, source_message_id text,
    last_active_at timestamptz DEFAULT now(), created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TYPE message_role AS ENUM ('user', 'assistant', 'system', 'tool');
CREATE TABLE messages (
    id text PRIMARY KEY, role message_role NOT NULL, content text, reasoning jsonb, search jsonb, metadata jsonb,
    error jsonb, tools jsonb, model text, favorite boolean DEFAULT false,
    thread_id text NOT NULL REFERENCES threads ON DELETE CASCADE, parent_id text REFERENCES messages ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE message_translates (
    id text PRIMARY KEY REFERENCES messages ON DELETE CASCADE, content text, "from" text, "to" text
);
CREATE TABLE embeddings (id uuid PRIMARY KEY, chunk tsvector, user_id text REFERENCES users ON DELETE CASCADE);
CREATE TABLE migrations (version text);

-- A large AI chat: ids are text ("msg_…"), messages refer to one another, much is jsonb.

CREATE TABLE users (
    id text PRIMARY KEY,
    username text UNIQUE,
    email text UNIQUE,
    preference jsonb,
    accessed_at timestamptz DEFAULT now() NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL
);
CREATE TABLE sessions (
    id text PRIMARY KEY,
    slug character varying(100) NOT NULL,
    title text,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    pinned boolean DEFAULT false,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT slug_user_id_unique UNIQUE (slug, user_id)
);
CREATE TABLE topics (
    id text PRIMARY KEY,
    title text,
    favorite boolean DEFAULT false,
    session_id text REFERENCES sessions (id) ON DELETE CASCADE,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    client_id text,
    history_summary text,
    metadata jsonb,
    accessed_at timestamptz DEFAULT now() NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT topics_client_id_user_id_unique UNIQUE (client_id, user_id)
);
CREATE INDEX topics_user_id_idx ON topics (user_id);

CREATE TABLE threads (
    id text PRIMARY KEY,
    title text,
    type text NOT NULL,
    status text DEFAULT 'active',
    topic_id text NOT NULL REFERENCES topics (id) ON DELETE CASCADE,
    source_message_id text NOT NULL,
    parent_thread_id text REFERENCES threads (id) ON DELETE SET NULL,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    last_active_at timestamptz DEFAULT now(),
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL
);
CREATE TABLE messages (
    id text PRIMARY KEY,
    role character varying(255) NOT NULL,
    content text,
    reasoning jsonb,
    search jsonb,
    metadata jsonb,
    model text,
    provider text,
    favorite boolean DEFAULT false,
    error jsonb,
    tools jsonb,
    trace_id text,
    client_id text,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    session_id text REFERENCES sessions (id) ON DELETE CASCADE,
    topic_id text REFERENCES topics (id) ON DELETE CASCADE,
    thread_id text REFERENCES threads (id) ON DELETE CASCADE,
    parent_id text REFERENCES messages (id) ON DELETE SET NULL,
    quota_id text REFERENCES messages (id) ON DELETE SET NULL,
    accessed_at timestamptz DEFAULT now() NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL
);
CREATE INDEX messages_created_at_idx ON messages USING btree (created_at);
CREATE UNIQUE INDEX message_client_id_user_unique ON messages (client_id, user_id);
CREATE INDEX messages_topic_id_idx ON messages (topic_id);
CREATE INDEX messages_parent_id_idx ON messages (parent_id);
CREATE INDEX messages_quota_id_idx ON messages (quota_id);

-- One to one: its key is the message's.
CREATE TABLE message_plugins (
    id text PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    tool_call_id text,
    type text DEFAULT 'default',
    api_name text,
    arguments text,
    identifier text,
    state jsonb,
    error jsonb,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE files (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    file_type character varying(255) NOT NULL,
    name text NOT NULL,
    size integer NOT NULL,
    url text NOT NULL
);
CREATE TABLE messages_files (
    file_id text NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    message_id text NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (file_id, message_id)
);

-- A self-hosted web UI: ids are text, times are seconds in bigint, content is JSON.

CREATE TABLE "user" (
    id text PRIMARY KEY,
    name character varying,
    email character varying UNIQUE,
    role character varying,
    last_active_at bigint,
    created_at bigint
);
CREATE TABLE folder (
    id text NOT NULL,
    parent_id text,
    user_id text NOT NULL,
    name text NOT NULL,
    items json,
    meta json,
    data json,
    is_expanded boolean NOT NULL DEFAULT false,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE chat (
    id character varying(255) PRIMARY KEY,
    user_id character varying(255) NOT NULL,
    title text NOT NULL,
    chat json,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    share_id text UNIQUE,
    archived boolean NOT NULL DEFAULT false,
    pinned boolean DEFAULT false,
    meta json DEFAULT '{}'::json,
    folder_id text,
    last_read_at bigint,
    summary text
);
CREATE INDEX user_id_pinned_idx ON chat (user_id, pinned);
CREATE INDEX updated_at_user_id_idx ON chat (updated_at, user_id);
CREATE INDEX folder_id_user_id_idx ON chat (folder_id, user_id);

CREATE TABLE chat_message (
    id text PRIMARY KEY,
    chat_id text NOT NULL REFERENCES chat (id) ON DELETE CASCADE,
    user_id text,
    role text NOT NULL,
    parent_id text,
    content json,
    output json,
    model_id text,
    files json,
    sources json,
    done boolean DEFAULT true,
    error json,
    usage json,
    created_at bigint,
    updated_at bigint
);
CREATE INDEX chat_message_chat_parent_idx ON chat_message (chat_id, parent_id);
CREATE INDEX chat_message_user_created_idx ON chat_message (user_id, created_at);

CREATE TABLE tag (
    id character varying(255) NOT NULL,
    name character varying(255),
    user_id character varying(255) NOT NULL,
    meta json,
    CONSTRAINT pk_id_user_id PRIMARY KEY (id, user_id)
);
CREATE TABLE feedback (
    id text PRIMARY KEY,
    user_id text,
    version bigint DEFAULT 0,
    type text,
    data json,
    meta json,
    snapshot json,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

-- A self-hosted web UI: text ids, times as seconds in a bigint, no foreign keys.
CREATE TABLE "user" (id varchar PRIMARY KEY, name varchar NOT NULL, email varchar NOT NULL, api_key varchar UNIQUE,
    last_active_at bigint NOT NULL, updated_at bigint NOT NULL, created_at bigint NOT NULL);
CREATE TABLE folder (
    id text NOT NULL, user_id text NOT NULL, parent_id text, name text NOT NULL, items json, meta json,
    is_expanded boolean NOT NULL DEFAULT false, created_at bigint NOT NULL, updated_at bigint NOT NULL,
    PRIMARY KEY (id, user_id)
);
CREATE TABLE chat (
    id varchar PRIMARY KEY, user_id varchar NOT NULL, title text NOT NULL, chat json, share_id text UNIQUE,
    archived boolean NOT NULL DEFAULT false, pinned boolean, meta json NOT NULL DEFAULT '{}', folder_id text,
    last_read_at bigint, created_at bigint NOT NULL, updated_at bigint NOT NULL
);
CREATE TABLE chat_message (
    id text PRIMARY KEY, chat_id varchar NOT NULL REFERENCES chat ON DELETE CASCADE, user_id text NOT NULL, role text NOT NULL,
    parent_id text, content json, output json, model_id text, done boolean NOT NULL DEFAULT true, error json, usage json,
    created_at bigint NOT NULL, updated_at bigint NOT NULL
);
CREATE TABLE tag (id varchar NOT NULL, name varchar NOT NULL, user_id varchar NOT NULL, meta json, PRIMARY KEY (id, user_id));
CREATE TABLE feedback (
    id text PRIMARY KEY, user_id text, version bigint DEFAULT 0, type text, data json, meta json, snapshot json,
    created_at bigint NOT NULL, updated_at bigint NOT NULL
);
CREATE TABLE config (id serial PRIMARY KEY, data json NOT NULL, version int NOT NULL);

-- A chat UI on Supabase: workspaces, folders, messages that hold their user, too, an order by number.
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY);
CREATE TABLE profiles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL UNIQUE REFERENCES auth.users ON DELETE CASCADE,
    bio text NOT NULL, username text NOT NULL UNIQUE, openai_api_key text, anthropic_api_key text,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at timestamptz
);
CREATE TABLE workspaces (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    name text NOT NULL, is_home boolean NOT NULL DEFAULT false, sharing text NOT NULL DEFAULT 'private',
    default_temperature real NOT NULL, created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at timestamptz
);
CREATE TABLE folders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    workspace_id uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE, name text NOT NULL, description text NOT NULL,
    type text NOT NULL, created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at timestamptz
);
CREATE TABLE chats (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    workspace_id uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE, folder_id uuid REFERENCES folders ON DELETE SET NULL,
    name text NOT NULL, sharing text NOT NULL DEFAULT 'private', model text NOT NULL, temperature real NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at timestamptz
);
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), chat_id uuid NOT NULL REFERENCES chats ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE, content text NOT NULL CHECK (length(content) < 1000000),
    image_paths text[] NOT NULL, model text NOT NULL, role text NOT NULL, sequence_number int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at timestamptz
);
CREATE TABLE files (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    folder_id uuid REFERENCES folders ON DELETE SET NULL, name text NOT NULL, size int NOT NULL, tokens int NOT NULL,
    tags tsvector GENERATED ALWAYS AS (to_tsvector('simple', name)) STORED, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE message_file_items (
    message_id uuid NOT NULL REFERENCES messages ON DELETE CASCADE, file_id uuid NOT NULL REFERENCES files ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE, PRIMARY KEY (message_id, file_id)
);

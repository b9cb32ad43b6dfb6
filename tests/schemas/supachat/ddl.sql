-- A chat UI on Supabase: workspaces, folders, chats with a name, messages in the order of a number.

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
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text UNIQUE);
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;

CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END
$$;

CREATE TABLE workspaces (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz,
    sharing text NOT NULL DEFAULT 'private',
    default_context_length int NOT NULL,
    default_model text NOT NULL CHECK (char_length(default_model) <= 1000),
    default_prompt text NOT NULL CHECK (char_length(default_prompt) <= 100000),
    default_temperature real NOT NULL,
    description text NOT NULL CHECK (char_length(description) <= 500),
    image_path text NOT NULL DEFAULT '' CHECK (char_length(image_path) <= 1000),
    include_profile_context boolean NOT NULL DEFAULT true,
    instructions text NOT NULL DEFAULT '' CHECK (char_length(instructions) <= 1500),
    is_home boolean NOT NULL DEFAULT false,
    name text NOT NULL CHECK (char_length(name) <= 100)
);
CREATE INDEX idx_workspaces_user_id ON workspaces (user_id);
CREATE UNIQUE INDEX idx_unique_home_workspace_per_user ON workspaces (user_id) WHERE is_home;

CREATE TABLE folders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz,
    name text NOT NULL,
    description text NOT NULL,
    type text NOT NULL
);
CREATE INDEX folders_user_id_idx ON folders (user_id);
CREATE INDEX folders_workspace_id_idx ON folders (workspace_id);

CREATE TABLE files (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    folder_id uuid REFERENCES folders (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz,
    sharing text NOT NULL DEFAULT 'private',
    file_path text NOT NULL CHECK (char_length(file_path) <= 1000),
    name text NOT NULL,
    size int NOT NULL,
    tokens int NOT NULL,
    type text NOT NULL
);

CREATE TABLE chats (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    folder_id uuid REFERENCES folders (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz,
    sharing text NOT NULL DEFAULT 'private',
    context_length int NOT NULL,
    embeddings_provider text NOT NULL CHECK (char_length(embeddings_provider) <= 1000),
    include_profile_context boolean NOT NULL,
    include_workspace_instructions boolean NOT NULL,
    model text NOT NULL CHECK (char_length(model) <= 1000),
    name text NOT NULL CHECK (char_length(name) <= 400),
    prompt text NOT NULL CHECK (char_length(prompt) <= 100000),
    temperature real NOT NULL
);
CREATE INDEX idx_chats_user_id ON chats (user_id);
CREATE INDEX idx_chats_workspace_id ON chats (workspace_id);

CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    chat_id uuid NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz,
    content text NOT NULL CHECK (char_length(content) <= 1000000),
    image_paths text[] NOT NULL CHECK (cardinality(image_paths) <= 16),
    model text NOT NULL CHECK (char_length(model) <= 1000),
    role text NOT NULL CHECK (char_length(role) <= 1000),
    sequence_number int NOT NULL
);
CREATE INDEX idx_messages_chat_id ON messages (chat_id);

CREATE TABLE chat_files (
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    chat_id uuid NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    file_id uuid NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz,
    PRIMARY KEY (chat_id, file_id)
);

CREATE TRIGGER update_workspaces_updated_at BEFORE UPDATE ON workspaces
    FOR EACH ROW EXECUTE PROCEDURE update_updated_at_column();
CREATE TRIGGER update_folders_updated_at BEFORE UPDATE ON folders
    FOR EACH ROW EXECUTE PROCEDURE update_updated_at_column();
CREATE TRIGGER update_files_updated_at BEFORE UPDATE ON files
    FOR EACH ROW EXECUTE PROCEDURE update_updated_at_column();
CREATE TRIGGER update_chats_updated_at BEFORE UPDATE ON chats
    FOR EACH ROW EXECUTE PROCEDURE update_updated_at_column();
CREATE TRIGGER update_messages_updated_at BEFORE UPDATE ON messages
    FOR EACH ROW EXECUTE PROCEDURE update_updated_at_column();

CREATE FUNCTION delete_messages_including_and_after(p_user_id uuid, p_chat_id uuid, p_sequence_number int)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM messages
    WHERE user_id = p_user_id AND chat_id = p_chat_id AND sequence_number >= p_sequence_number;
END
$$;

ALTER TABLE workspaces ENABLE ROW LEVEL SECURITY;
ALTER TABLE folders ENABLE ROW LEVEL SECURITY;
ALTER TABLE files ENABLE ROW LEVEL SECURITY;
ALTER TABLE chats ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE chat_files ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Allow full access to own workspaces" ON workspaces
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
CREATE POLICY "Allow full access to own folders" ON folders
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
CREATE POLICY "Allow full access to own files" ON files
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
CREATE POLICY "Allow full access to own chats" ON chats
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
CREATE POLICY "Allow view access to non-private chats" ON chats FOR SELECT USING (sharing <> 'private');
CREATE POLICY "Allow full access to own messages" ON messages
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
CREATE POLICY "Allow view access to messages for non-private chats" ON messages FOR SELECT
    USING (chat_id IN (SELECT id FROM chats WHERE sharing <> 'private'));
CREATE POLICY "Allow full access to own chat_files" ON chat_files
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated, service_role;

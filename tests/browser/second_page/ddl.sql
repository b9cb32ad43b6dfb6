-- Folders, their chats, messages of parts, and votes for them.

CREATE TABLE folders (
    id uuid PRIMARY KEY,
    account uuid NOT NULL,
    name text NOT NULL
);
CREATE INDEX ON folders (account);

CREATE TABLE chats (
    id uuid PRIMARY KEY,
    folder_id uuid NOT NULL REFERENCES folders ON DELETE CASCADE,
    title text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON chats (folder_id, changed_at, id);

CREATE TABLE messages (
    id uuid PRIMARY KEY,
    chat_id uuid NOT NULL REFERENCES chats ON DELETE CASCADE,
    parts jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON messages (chat_id, created_at, id);

CREATE TABLE votes (
    chat_id uuid REFERENCES chats ON DELETE CASCADE,
    message_id uuid REFERENCES messages ON DELETE CASCADE,
    is_up boolean NOT NULL,
    PRIMARY KEY (chat_id, message_id)
);

-- Each row that was written, and how often.
CREATE TABLE writes (what text PRIMARY KEY, count int NOT NULL DEFAULT 1);
CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    INSERT INTO writes AS w (what) VALUES (lower(TG_OP) || ' ' || TG_TABLE_NAME || ' ' || (to_jsonb(NEW) ->> TG_ARGV[0]))
    ON CONFLICT (what) DO UPDATE SET count = w.count + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER counted AFTER INSERT OR UPDATE ON folders FOR EACH ROW EXECUTE FUNCTION count_write('name');
CREATE TRIGGER counted AFTER INSERT ON chats FOR EACH ROW EXECUTE FUNCTION count_write('title');
CREATE TRIGGER counted AFTER INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION count_write('parts');
CREATE TRIGGER counted AFTER INSERT OR UPDATE ON votes FOR EACH ROW EXECUTE FUNCTION count_write('is_up');

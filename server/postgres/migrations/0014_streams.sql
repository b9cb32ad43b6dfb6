-- Streams: texts that the app's backend writes, until they are in their rows.

CREATE TABLE sync.streams (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL,
    kind       "char" NOT NULL,                -- the tag
    row_key    text[] NOT NULL,
    name       text NOT NULL,                  -- the column's name on the wire
    since      bigint NOT NULL,                -- the feed's seq when it was opened
    base       text,                           -- md5 of what the column held then
    slot       smallint NOT NULL,              -- where its text is
    holder     text NOT NULL,                  -- the server process that appended last
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed', 'stopped')),
    opened_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when the writer was last known to be there
    stop_at    timestamptz,                    -- when somebody wanted it to end
    ended_at   timestamptz,
    writes     boolean NOT NULL DEFAULT false, -- the server is to write the row at once
    look_at    timestamptz,                    -- when the row of a stream that has ended is looked at next
    looks      int NOT NULL DEFAULT 0,         -- how often that failed
    settled_at timestamptz,
    UNIQUE (kind, row_key, name)
) WITH (fillfactor = 50);
CREATE INDEX streams_unsettled ON sync.streams (touched_at) WHERE settled_at IS NULL;
CREATE INDEX streams_open ON sync.streams (user_id) WHERE state = 'open';
CREATE INDEX streams_settled ON sync.streams (settled_at) WHERE settled_at IS NOT NULL;

-- The parts of the texts, each where the one before it ends, and last a part that ends the text. Two processes cannot extend a
-- text in two ways: the key of both parts is the same. A slot is emptied by TRUNCATE; what is not settled moves to the slot of
-- now.
CREATE TABLE sync.stream_text (
    slot   smallint NOT NULL,
    stream uuid NOT NULL,
    at     int NOT NULL,                       -- the offset, in characters
    text   text NOT NULL,
    ended  text,                               -- the state that this part ends with
    PRIMARY KEY (slot, stream, at)
) PARTITION BY LIST (slot);
CREATE TABLE sync.stream_text_0 PARTITION OF sync.stream_text FOR VALUES IN (0) WITH (autovacuum_enabled = off);
CREATE TABLE sync.stream_text_1 PARTITION OF sync.stream_text FOR VALUES IN (1) WITH (autovacuum_enabled = off);
CREATE TABLE sync.stream_text_2 PARTITION OF sync.stream_text FOR VALUES IN (2) WITH (autovacuum_enabled = off);
CREATE TABLE sync.stream_text_3 PARTITION OF sync.stream_text FOR VALUES IN (3) WITH (autovacuum_enabled = off);

ALTER TABLE sync.streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.stream_text ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.stream_text_0 ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.stream_text_1 ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.stream_text_2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.stream_text_3 ENABLE ROW LEVEL SECURITY;

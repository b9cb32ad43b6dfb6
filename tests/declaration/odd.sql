CREATE EXTENSION citext;
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('sad', 'glad');
CREATE TYPE app.pair AS (a int, b int);
CREATE DOMAIN app.title AS text CHECK (length(VALUE) < 100);
CREATE DOMAIN app.heading AS app.title NOT NULL;
CREATE TABLE app.notes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, team int, heading app.heading, mood app.mood,
    moods app.mood[], titles app.title[], email citext, code character(3), price numeric(10, 2), at timestamp(3),
    near point, spans tstzrange[], "pair" app.pair, data bytea, datas bytea[], took interval,
    length int GENERATED ALWAYS AS (length(code)) STORED, needed text NOT NULL, "odd name" text, "createdAt" timestamptz,
    created_at timestamptz, day date
);
CREATE TABLE app.numbers (
    id bigserial PRIMARY KEY, owner text NOT NULL UNIQUE, note uuid REFERENCES app.notes (id), label text,
    seen int GENERATED ALWAYS AS IDENTITY
);
CREATE TABLE app.pairs (
    note_id uuid REFERENCES app.notes (id) ON DELETE CASCADE, n smallint, worth real NOT NULL, PRIMARY KEY (note_id, n)
);
CREATE TABLE app.three (a int, b int, c int, owner uuid, code text, PRIMARY KEY (a, b, c));
CREATE UNIQUE INDEX three_code ON app.three (lower(code));
CREATE TABLE app.keyless (owner uuid, name text);
CREATE TABLE app.moods (mood app.mood, name citext, owner uuid, PRIMARY KEY (mood, name));
CREATE TABLE app.versions (id uuid, at timestamptz, owner uuid, PRIMARY KEY (id, at));
CREATE TABLE app.parts (id uuid, at timestamptz, owner uuid, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE app.parts_1 PARTITION OF app.parts DEFAULT;
CREATE VIEW app.few AS SELECT * FROM app.notes;
CREATE TABLE public.messages (
    id uuid PRIMARY KEY, owner uuid, created_at timestamptz NOT NULL, name text,
    reply_to uuid REFERENCES public.messages (id)
);

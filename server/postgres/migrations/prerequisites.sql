-- Prerequisites of every migration, function and view: the schema, the record of what was applied, and the roles. `migrate` runs
-- this file first, each time it has something to apply.

CREATE SCHEMA IF NOT EXISTS sync;

-- One row: the newest numbered migration that was applied. Alembic made this table in databases that are older than 0008.
CREATE TABLE IF NOT EXISTS sync.migrations (
    version_num varchar(32) NOT NULL,
    CONSTRAINT migrations_pkc PRIMARY KEY (version_num)
);

-- The tables that have our triggers. Functions of the first migrations read it.
CREATE TABLE IF NOT EXISTS sync.kinds (
    nsp       text NOT NULL,
    rel       text NOT NULL,
    kind      text NOT NULL,
    tag       "char" NOT NULL,
    columns   text[] NOT NULL,     -- those that the server reads, and their types
    types     text[] NOT NULL,
    watched   text[] NOT NULL,     -- those of which a change is recorded, and how many of them are compared as text
    casts     int NOT NULL,
    condition text NOT NULL,       -- of the trigger for updates
    triggers  text NOT NULL,       -- the md5 of the statements that made the triggers
    writable  boolean NOT NULL,    -- devices write rows of it
    secured   boolean NOT NULL,    -- it has row policies for end users
    parted    boolean NOT NULL,    -- Atlas Sync partitions it
    tab       text NOT NULL GENERATED ALWAYS AS (pg_catalog.quote_ident(nsp) || '.' || pg_catalog.quote_ident(rel)) STORED,
    PRIMARY KEY (nsp, rel)
);

-- A database from before the declaration has triggers already, and its history depends on them.
DO $$
BEGIN
    IF pg_catalog.to_regclass('sync.declaration') IS NULL THEN
        INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured,
                                parted)
        SELECT n.nspname, c.relname, c.relname, '', '{}', '{}', '{}', 0, '', '', false, false, false
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE g.tgname = 'atlas_sync_record' AND g.tgparentid = 0
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;

-- The roles as Supabase has them, and ours. Roles belong to the whole cluster, so a migration of another database may
-- create them at this moment: for that reason an existing role is no error.
DO $$
DECLARE
    role text;
    missing text[] := '{}';
BEGIN
    FOREACH role IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'atlas_sync'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN NOINHERIT', role);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
                WHEN insufficient_privilege THEN
                    missing := missing || pg_catalog.format('CREATE ROLE %I NOLOGIN NOINHERIT', role);
            END;
        END IF;
    END LOOP;
    IF missing <> '{}' THEN
        RAISE EXCEPTION 'This login may not create roles, and some are missing. Have an administrator run %, then migrate again.',
                        pg_catalog.array_to_string(missing, '; ');
    END IF;
END
$$;

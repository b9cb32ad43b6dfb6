-- Any tables: what is synced is declared, and the triggers and functions follow from the declaration.

-- A row whose key is no uuid is named by the texts in `row_key`.
ALTER TABLE sync.log ALTER COLUMN row_id DROP NOT NULL, ADD COLUMN row_key text[];

-- The declaration in force: server/declaration/model.py as JSON. `digest` names it, `hash` names what devices know of it,
-- `checksum` the SQL that was made of it.
CREATE TABLE sync.declaration (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    digest   text NOT NULL,
    hash     text NOT NULL,
    checksum text NOT NULL,
    declared jsonb NOT NULL
);

-- The tables that have our triggers.
CREATE TABLE sync.kinds (
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

DO $$
DECLARE
    ours pg_catalog.regclass;
BEGIN
    FOREACH ours IN ARRAY ARRAY['sync.declaration', 'sync.kinds']::pg_catalog.regclass[] LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', ours);
        EXECUTE pg_catalog.format('CREATE POLICY atlas_sync_reads ON %s FOR SELECT TO atlas_sync USING (true)', ours);
        EXECUTE pg_catalog.format('GRANT SELECT ON %s TO atlas_sync', ours);
    END LOOP;
END
$$;

-- Why a history began: `schema`, because of another declaration. NULL: for any other reason.
ALTER TABLE sync.histories ADD COLUMN why text;

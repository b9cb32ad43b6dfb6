-- Any tables: what is synced is declared, and the triggers and functions follow from the declaration.

-- A row whose key is no uuid is named by the texts in `row_key`.
ALTER TABLE sync.log ALTER COLUMN row_id DROP NOT NULL, ADD COLUMN row_key text[];

-- The declaration in force: server/declaration/model.py as JSON. `digest` names it, `hash` names what devices know of it,
-- `checksum` the SQL that was made of it. `former`: the one before, until it is known whether devices lack values of new columns.
CREATE TABLE sync.declaration (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    digest   text NOT NULL,
    hash     text NOT NULL,
    checksum text NOT NULL,
    declared jsonb NOT NULL,
    former   jsonb
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

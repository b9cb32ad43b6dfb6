-- Prerequisites of every migration, function and view: the schema, the record of what was applied, and the roles. `migrate` runs
-- this file first, each time it has something to apply.

CREATE SCHEMA IF NOT EXISTS sync;

-- One row: the newest numbered migration that was applied. Alembic made this table in databases that are older than 0008.
CREATE TABLE IF NOT EXISTS sync.migrations (
    version_num varchar(32) NOT NULL,
    CONSTRAINT migrations_pkc PRIMARY KEY (version_num)
);

-- The roles as Supabase has them, and ours. Roles belong to the whole cluster, so a migration of another database may
-- create them at this moment: for that reason an existing role is no error.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'atlas_sync'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN NOINHERIT', role);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'This login may not create roles, and % is missing. Have an administrator run '
                                    'CREATE ROLE % NOLOGIN, then migrate again.', role, role;
            END;
        END IF;
    END LOOP;
END
$$;

-- Rights of this login that the server does not need.
SELECT string_agg(can, ', ') FROM (VALUES
    ('it is a superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)),
    ('it bypasses row level security', (SELECT rolbypassrls AND NOT rolsuper FROM pg_roles WHERE rolname = current_user)),
    ('it may create roles', (SELECT rolcreaterole AND NOT rolsuper FROM pg_roles WHERE rolname = current_user)),
    ('it may replicate, and so copy the whole cluster', (
        SELECT r.rolreplication AND NOT r.rolsuper AND m.doorbells = 'listen'
        FROM pg_roles r CROSS JOIN sync.meta m WHERE r.rolname = current_user)),
    ('it owns objects', EXISTS (
        SELECT FROM pg_shdepend s JOIN pg_database d ON d.datname = current_database()
        WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o' AND s.dbid IN (0, d.oid)
          AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = current_user))),
    ('it may write the app''s tables', EXISTS (
        SELECT FROM sync.kinds WHERE to_regclass(tab) IS NOT NULL AND has_table_privilege(to_regclass(tab), 'INSERT, UPDATE, DELETE'))
        AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
) AS excess (can, does) WHERE does

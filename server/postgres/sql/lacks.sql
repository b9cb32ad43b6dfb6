-- What this login lacks to migrate the database.
-- $1 the declared tables, as SQL has them. Those that are missing are not looked at
-- `roles`: missing ones that the login may not create. `tables`: those that it may not give triggers. `schema`: whether it
-- may not create the schema sync.
SELECT (
           SELECT array_agg(w.role ORDER BY w.i)
           FROM unnest('{anon,authenticated,service_role,atlas_sync}'::text[]) WITH ORDINALITY AS w (role, i)
           WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.role)
             AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = current_user AND (r.rolsuper OR r.rolcreaterole))
       ) AS roles,
       (
           SELECT array_agg(format('%s (of %s)', t.tab, c.relowner::regrole) ORDER BY t.i)
           FROM unnest($1::text[]) WITH ORDINALITY AS t (tab, i) JOIN pg_class c ON c.oid = to_regclass(t.tab)
           WHERE NOT has_table_privilege(c.oid, 'TRIGGER')
       ) AS tables,
       to_regnamespace('sync') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE') AS schema

-- Why this login cannot read which tables are declared, in the form of inventory.sql. No row: it can, and inventory.sql finds
-- the faults. It reads only the catalog, and needs no right to any object.
WITH login AS MATERIALIZED (
    SELECT r.oid, r.rolname AS name, a.oid AS ours
    FROM pg_roles r LEFT JOIN pg_roles a ON a.rolname = 'atlas_sync' WHERE r.rolname = current_user
), tables AS MATERIALIZED (
    SELECT w.rel, n.oid AS schema, c.oid
    FROM unnest('{kinds,declaration}'::text[]) AS w (rel)
    LEFT JOIN pg_namespace n ON n.nspname = 'sync'
    LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel
), columns (rel, col) AS (
    SELECT 'kinds', unnest('{nsp,rel,kind,tag,columns,types,watched,casts,condition,triggers,writable,secured,parted,tab}'::text[])
    UNION ALL
    SELECT 'declaration', unnest('{digest,hash,checksum,declared,former}'::text[])
), blocked AS (
    SELECT coalesce(bool_or((has_schema_privilege(schema, 'USAGE') AND has_table_privilege(oid, 'SELECT')) IS NOT TRUE), true) AS is
    FROM tables
), wrong (turn, what, problem, mend, serving) AS (
    SELECT 1, 'role atlas_sync', 'missing', 'CREATE ROLE atlas_sync NOLOGIN NOINHERIT', true 
    FROM login l WHERE l.ours IS NULL AND (SELECT b.is FROM blocked b)

    UNION ALL
    SELECT 2, format('membership of %I in atlas_sync', l.name),
           CASE WHEN pg_has_role(l.ours, 'MEMBER') THEN 'without its rights' ELSE 'missing' END,
           CASE WHEN current_setting('server_version_num')::int >= 160000 AND pg_has_role(l.ours, 'MEMBER')
                THEN format('GRANT atlas_sync TO %I WITH INHERIT TRUE', l.name)
                WHEN pg_has_role(l.ours, 'MEMBER') THEN format('ALTER ROLE %I INHERIT', l.name)
                ELSE format('GRANT atlas_sync TO %I', l.name) END, true
    FROM login l WHERE NOT pg_has_role(l.ours, 'USAGE') AND (SELECT b.is FROM blocked b)

    UNION ALL
    SELECT DISTINCT 3, 'schema sync', 'missing: run `atlas-sync migrate`', NULL, true FROM tables WHERE schema IS NULL

    UNION ALL
    SELECT 4, 'table sync.' || t.rel, 'missing: run `atlas-sync migrate`, or restore it from a backup', NULL, true
    FROM tables t WHERE t.oid IS NULL AND t.schema IS NOT NULL

    UNION ALL
    SELECT DISTINCT 5, 'USAGE on schema sync', 'missing for atlas_sync', 'GRANT USAGE ON SCHEMA sync TO atlas_sync', true
    FROM tables t CROSS JOIN login l WHERE has_schema_privilege(l.ours, t.schema, 'USAGE') IS FALSE AND (SELECT b.is FROM blocked b)

    UNION ALL
    SELECT 6, 'SELECT on sync.' || t.rel, 'missing for atlas_sync', format('GRANT SELECT ON sync.%s TO atlas_sync', t.rel), true
    FROM tables t CROSS JOIN login l WHERE has_table_privilege(l.ours, t.oid, 'SELECT') IS FALSE AND (SELECT b.is FROM blocked b)

    UNION ALL
    SELECT 7, format('column sync.%s.%s', t.rel, c.col), 'missing: restore it from a backup', NULL, true
    FROM tables t JOIN columns c ON c.rel = t.rel
    WHERE t.oid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = c.col)
)
SELECT what, problem, mend, serving FROM wrong ORDER BY turn, what

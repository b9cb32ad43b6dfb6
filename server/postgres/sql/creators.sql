-- Roles that may create functions in schema public, without the owners of it, of the database and of the app's tables.
-- $1 those tables, as SQL has them
-- `strangers`: roles that end users or the server belong to, or PUBLIC.
SELECT string_agg(who, ', ' ORDER BY who) FILTER (WHERE strange) AS strangers,
       string_agg(who, ', ' ORDER BY who) FILTER (WHERE NOT strange) AS others
FROM (
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS who,
           a.grantee = 0 OR EXISTS (
               SELECT FROM pg_roles r
               WHERE r.rolname IN ('anon', 'authenticated', 'atlas_sync') AND pg_has_role(r.oid, a.grantee, 'MEMBER')
                  OR r.rolname = 'atlas_sync' AND pg_has_role(a.grantee, r.oid, 'USAGE')
           ) AS strange
    FROM pg_namespace n
    CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE n.nspname = 'public' AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND g.rolsuper IS NOT TRUE
      AND a.grantee NOT IN (SELECT datdba FROM pg_database WHERE datname = current_database())
      AND a.grantee NOT IN (SELECT relowner FROM pg_class WHERE oid IN (SELECT to_regclass(tab) FROM unnest($1::text[]) AS tab))
) AS creators

-- Who has the right to create temporary objects, PUBLIC or this login; NULL: neither. And the database.
SELECT CASE WHEN EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
                         WHERE a.grantee = 0 AND a.privilege_type = 'TEMPORARY') THEN 'PUBLIC'
            WHEN has_database_privilege(d.oid, 'TEMPORARY') AND NOT r.rolsuper AND NOT pg_has_role(d.datdba, 'USAGE')
            THEN quote_ident(r.rolname) END AS who,
       quote_ident(d.datname) AS database
FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user

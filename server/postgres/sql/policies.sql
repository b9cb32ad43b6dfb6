-- Row policies of the app that apply to end users.
-- $1 tables, as SQL has them
SELECT string_agg(format('%I on %s', p.polname,
                         CASE WHEN n.nspname = 'public' THEN quote_ident(c.relname) ELSE format('%I.%I', n.nspname, c.relname) END),
                  ', ' ORDER BY c.relname, p.polname)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid IN (SELECT to_regclass(tab) FROM unnest($1::text[]) AS tab)
  AND p.polname NOT LIKE 'atlas\_%'
  AND EXISTS (SELECT FROM unnest(p.polroles) AS role
              WHERE role = 0 OR EXISTS (SELECT FROM pg_roles r
                                        WHERE r.rolname = 'authenticated' AND pg_has_role(r.oid, role, 'USAGE')))

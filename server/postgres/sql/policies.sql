-- Row policies of the app on its tables that apply to end users.
SELECT string_agg(format('%I on %I', p.polname, c.relname), ', ' ORDER BY c.relname, p.polname)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE c.oid IN (to_regclass('public.profiles'), to_regclass('public.conversations'), to_regclass('public.messages'),
                to_regclass('public.messages_archive'))
  AND p.polname NOT LIKE 'atlas\_%'
  AND EXISTS (SELECT FROM unnest(p.polroles) AS role
              WHERE role = 0 OR EXISTS (SELECT FROM pg_roles r
                                        WHERE r.rolname = 'authenticated' AND pg_has_role(r.oid, role, 'USAGE')))

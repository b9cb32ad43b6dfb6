-- The app's three tables, and everything that depends on messages, as one JSON object (catalog.Facts). Names are quoted as
-- SQL identifiers; NULLs are left out.
WITH tables AS (
    SELECT c.oid, c.relname AS tab, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relacl, c.relowner, c.relreplident
    FROM pg_class c
    WHERE c.oid IN (to_regclass('public.profiles'), to_regclass('public.conversations'), to_regclass('public.messages'))
)
SELECT jsonb_strip_nulls(jsonb_build_object(
    'now', extract(epoch FROM now()),
    'sees_all', (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user),
    'tables', (SELECT jsonb_object_agg(tab, jsonb_build_object(
            'kind', relkind, 'owner', relowner::regrole::text, 'mine', relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user),
            'secured', relrowsecurity, 'forced', relforcerowsecurity,
            'told_by_key', EXISTS (SELECT FROM pg_index x WHERE x.indrelid = tables.oid AND x.indisreplident),
            'told_by_all', relreplident = 'f', 'comment', obj_description(oid, 'pg_class'))) FROM tables),
    'columns', (SELECT jsonb_object_agg(t.tab || '.' || a.attname, jsonb_build_object(
            'type', format_type(a.atttypid, NULL), 'required', a.attnotnull, 'identity', a.attidentity <> '',
            'default', pg_get_expr(d.adbin, d.adrelid)))
        FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum),
    'constraints', (SELECT jsonb_agg(jsonb_build_object(
            'tab', t.tab, 'name', quote_ident(k.conname), 'kind', k.contype, 'def', pg_get_constraintdef(k.oid),
            'validated', k.convalidated, 'inherited', NOT k.connoinherit,
            'cascades', k.confdeltype = 'c' AND k.confupdtype = 'a' AND k.confmatchtype = 's' AND NOT k.condeferrable,
            'columns', (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                        WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))) ORDER BY k.conname)
        FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype <> 't'),
    'indexes', (SELECT jsonb_agg(jsonb_build_object(
            'tab', t.tab, 'name', quote_ident(i.relname), 'def', pg_get_indexdef(x.indexrelid), 'valid', x.indisvalid,
            'unique', x.indisunique, 'constraint', EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid
                                                           AND k.conrelid = t.oid)) ORDER BY i.relname)
        FROM tables t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid),
    'referenced_by', (SELECT jsonb_agg(k.conname || ' of ' || k.conrelid::regclass)
        FROM pg_constraint k WHERE k.confrelid = to_regclass('public.messages') AND k.contype = 'f'),
    'triggers', (SELECT jsonb_agg(jsonb_build_object(
            'name', quote_ident(g.tgname), 'def', pg_get_triggerdef(g.oid), 'enabled', g.tgenabled,
            'transitions', g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL,
            'row', g.tgtype & 1 = 1, 'ours', f.pronamespace = to_regnamespace('sync')) ORDER BY g.tgname)
        FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid WHERE g.tgrelid = to_regclass('public.messages') AND NOT g.tgisinternal),
    'policies', (SELECT jsonb_agg(jsonb_build_object(
            'name', quote_ident(p.polname), 'permissive', p.polpermissive, 'command', p.polcmd,
            'roles', (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ')
                      FROM unnest(p.polroles) AS r),
            'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)) ORDER BY p.polname)
        FROM pg_policy p WHERE p.polrelid = to_regclass('public.messages')),
    'grants', (SELECT jsonb_agg(jsonb_build_object(
            'tab', t.tab, 'what', a.privilege_type, 'column', NULL,
            'to', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, 'option', a.is_grantable,
            'by', CASE WHEN a.grantor <> t.relowner THEN a.grantor::regrole::text END))
        FROM tables t, aclexplode(t.relacl) a WHERE a.grantee <> t.relowner),
    'column_grants', (SELECT jsonb_agg(jsonb_build_object(
            'tab', t.tab, 'what', a.privilege_type, 'column', quote_ident(c.attname),
            'to', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, 'option', a.is_grantable,
            'by', CASE WHEN a.grantor <> t.relowner THEN a.grantor::regrole::text END))
        FROM tables t JOIN pg_attribute c ON c.attrelid = t.oid AND NOT c.attisdropped, aclexplode(c.attacl) a
        WHERE a.grantee <> t.relowner),
    -- Roles that access a table without row level security, and would lose its rows if that were enabled.
    'unsecured', (SELECT jsonb_agg(DISTINCT jsonb_build_object(
            'tab', t.tab, 'role', CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END))
        FROM tables t CROSS JOIN LATERAL (
            SELECT a.grantee FROM aclexplode(t.relacl) a
            UNION SELECT a.grantee FROM pg_attribute c, aclexplode(c.attacl) a WHERE c.attrelid = t.oid AND NOT c.attisdropped
        ) g LEFT JOIN pg_roles r ON r.oid = g.grantee
        WHERE NOT t.relrowsecurity AND (g.grantee = 0 OR NOT r.rolsuper AND NOT r.rolbypassrls
              AND NOT pg_has_role(r.oid, t.relowner, 'USAGE') AND r.rolname NOT IN ('anon', 'authenticated', 'atlas_sync'))),
    'kept_open', (SELECT jsonb_agg(jsonb_build_object(
            'tab', t.tab, 'role', CASE p.polroles[1] WHEN 0 THEN 'PUBLIC' ELSE p.polroles[1]::regrole::text END))
        FROM tables t JOIN pg_policy p ON p.polrelid = t.oid AND p.polname LIKE 'atlas_as_before%'),
    'views', (SELECT jsonb_agg(DISTINCT jsonb_build_object(
            'name', v.oid::regclass::text, 'kind', v.relkind, 'def', pg_get_viewdef(v.oid),
            'owner', v.relowner::regrole::text, 'mine', pg_has_role(v.relowner, 'USAGE'),
            'options', coalesce(array_to_string(v.reloptions, ', '), '')))
        FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_class v ON v.oid = r.ev_class
        WHERE d.refobjid = to_regclass('public.messages') AND d.refclassid = 'pg_class'::regclass
          AND v.oid <> d.refobjid),
    'policies_elsewhere', (SELECT jsonb_agg(DISTINCT jsonb_build_object(
            'name', quote_ident(p.polname), 'tab', p.polrelid::regclass::text,
            'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)))
        FROM pg_depend d JOIN pg_policy p ON p.oid = d.objid AND d.classid = 'pg_policy'::regclass
        WHERE d.refobjid = to_regclass('public.messages') AND d.refclassid = 'pg_class'::regclass
          AND p.polrelid <> d.refobjid),
    'functions', (SELECT jsonb_agg(DISTINCT d.objid::regprocedure::text) FROM pg_depend d
        WHERE d.classid = 'pg_proc'::regclass AND d.refobjid = to_regclass('public.messages')),
    'row_functions', (SELECT jsonb_agg(DISTINCT d.objid::regprocedure::text)
        FROM pg_type y JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (y.oid, y.typarray)
        WHERE y.typrelid = to_regclass('public.messages') AND d.classid = 'pg_proc'::regclass),
    'rules', (SELECT jsonb_agg(quote_ident(rulename)) FROM pg_rewrite WHERE ev_class = to_regclass('public.messages')),
    'key_views', (SELECT jsonb_agg(DISTINCT r.ev_class::regclass::text)
        FROM pg_constraint k JOIN pg_depend d ON d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid
        JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
        WHERE k.conrelid = to_regclass('public.messages')),
    'sequences', (SELECT jsonb_agg(jsonb_build_object('name', quote_ident(s.relname), 'column', quote_ident(a.attname)))
        FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
          AND d.refobjid = to_regclass('public.messages')),
    'publications', (SELECT jsonb_agg(jsonb_build_object(
            'name', quote_ident(p.pubname), 'owner', p.pubowner::regrole::text, 'mine', pg_has_role(p.pubowner, 'USAGE'),
            'root', p.pubviaroot, 'all', r.oid IS NULL,
            'partitioned', (SELECT array_agg(o.prrelid::regclass::text ORDER BY o.prrelid::regclass::text)
                            FROM pg_publication_rel o JOIN pg_class c ON c.oid = o.prrelid AND c.relkind = 'p'
                            WHERE o.prpubid = p.oid AND o.prrelid IS DISTINCT FROM to_regclass('public.messages')
                              AND o.prrelid IS DISTINCT FROM to_regclass('public.messages_archive')),
            'columns', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                        WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)),
            'where', pg_get_expr(r.prqual, r.prrelid)) ORDER BY p.pubname)
        FROM pg_publication p
        LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = to_regclass('public.messages')
        WHERE (r.oid IS NOT NULL OR p.puballtables
               OR EXISTS (SELECT FROM pg_publication_namespace s
                          WHERE s.pnpubid = p.oid AND s.pnnspid = 'public'::regnamespace))
          -- Ours is made again after each migration.
          AND NOT (p.pubname = 'atlas_sync' AND EXISTS (SELECT FROM pg_publication_rel o
                                                        WHERE o.prpubid = p.oid AND o.prrelid = to_regclass('sync.log')))),
    'auth', to_regprocedure('auth.uid()') IS NOT NULL,
    'usage', (SELECT jsonb_agg(r::text) FROM (SELECT a.grantee::regrole::text AS r FROM pg_namespace n, aclexplode(n.nspacl) a
                                        WHERE n.nspname = 'public' AND a.grantee <> 0 AND a.privilege_type = 'USAGE') u)
))

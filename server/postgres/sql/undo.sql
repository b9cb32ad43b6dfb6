-- What Atlas Sync has put into this database besides the structure of the app's tables, as one JSON object
-- (undo_plan.Installed). NULLs are left out.
WITH old AS (
    -- The app's own table, if it is a partition.
    SELECT i.inhrelid AS oid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN (to_regclass('public.messages'), to_regclass('public.messages_archive')) AND c.relname = 'messages_v1'
      AND (SELECT facts #>> '{tables,messages,kind}' FROM sync.original LIMIT 1) IS DISTINCT FROM 'p'
)
SELECT jsonb_strip_nulls(jsonb_build_object(
    'original', (SELECT facts FROM sync.original LIMIT 1),
    'adopted', EXISTS (SELECT FROM old),
    'columns', (SELECT array_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute
                WHERE attrelid = to_regclass('public.messages') AND attnum > 0 AND NOT attisdropped AND attgenerated = ''),
    'partitions', (SELECT jsonb_agg(jsonb_build_object(
                        'parent', parent, 'name', partition::text, 'rows', greatest(c.reltuples, 0)::bigint,
                        'bounds', pg_get_expr(c.relpartbound, c.oid)))
                   FROM sync.partitions p JOIN pg_class c ON c.oid = p.partition WHERE p.parent LIKE 'messages%'),
    'guards', (SELECT jsonb_agg(quote_ident(g.tgname) ORDER BY g.tgname)
               FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
               WHERE g.tgrelid = (SELECT oid FROM old) AND g.tgparentid = 0 AND NOT g.tgisinternal
                 AND f.pronamespace = 'sync'::regnamespace),
    'policies', (SELECT jsonb_agg(jsonb_build_object('name', quote_ident(polname), 'tab', polrelid::regclass::text))
                 FROM pg_policy WHERE polname LIKE 'atlas\_%' AND polrelid IN ('public.profiles'::regclass,
                     'public.conversations'::regclass, 'public.messages'::regclass)),
    'indexes', (SELECT jsonb_object_agg(i.relname, x.indisvalid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                WHERE x.indrelid = (SELECT oid FROM old)),
    'keys', (SELECT jsonb_object_agg(quote_ident(conname), convalidated) FROM pg_constraint
             WHERE conrelid = (SELECT oid FROM old) AND contype = 'f'),
    'publications', (SELECT jsonb_agg(quote_ident(p.pubname) ORDER BY p.pubname)
                     FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                     WHERE r.prrelid = (SELECT oid FROM old) AND pg_has_role(p.pubowner, 'USAGE')),
    'usage', (SELECT jsonb_agg(a.grantee::regrole::text) FROM pg_namespace n, aclexplode(n.nspacl) a
              WHERE n.nspname = 'public' AND a.grantee <> 0 AND a.privilege_type = 'USAGE')
))

-- What Atlas Sync has put into this database besides the structure of the app's tables, as one JSON object
-- (undo_plan.Installed). NULLs are left out.
WITH chat AS (
    -- The chat schema as Atlas Sync made or partitioned it. What is only declared is among `others`.
    SELECT c.oid FROM pg_class c
    WHERE (SELECT relkind FROM pg_class WHERE oid = to_regclass('public.messages')) = 'p'
      AND to_regclass('public.messages_archive') IS NOT NULL
      AND c.oid IN (to_regclass('public.profiles'), to_regclass('public.conversations'), to_regclass('public.messages'),
                    to_regclass('public.messages_archive'))
), parts AS (
    SELECT p.relid AS oid FROM chat c CROSS JOIN LATERAL pg_partition_tree(c.oid) p
    UNION SELECT oid FROM chat
), others AS (
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS tab,
           (SELECT array_agg(quote_ident(g.tgname) ORDER BY g.tgname)
            FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
            WHERE g.tgrelid = c.oid AND g.tgparentid = 0 AND NOT g.tgisinternal AND f.pronamespace = 'sync'::regnamespace) AS triggers,
           EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'atlas_sync_reads') AS policy,
           EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = to_regrole('atlas_sync')
                   UNION ALL
                   SELECT FROM pg_attribute t, aclexplode(t.attacl) a
                   WHERE t.attrelid = c.oid AND a.grantee = to_regrole('atlas_sync')) AS granted
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('sync', 'pg_catalog', 'information_schema')
      AND c.oid NOT IN (SELECT oid FROM parts)
), old AS (
    -- The app's own table, if it is a partition.
    SELECT i.inhrelid AS oid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN (to_regclass('public.messages'), to_regclass('public.messages_archive')) AND c.relname = 'messages_v1'
      AND (SELECT facts #>> '{tables,messages,kind}' FROM sync.original LIMIT 1) IS DISTINCT FROM 'p'
)
SELECT jsonb_strip_nulls(jsonb_build_object(
    'partitioned', EXISTS (SELECT FROM chat),
    'others', (SELECT jsonb_agg(jsonb_build_object('tab', tab, 'triggers', triggers, 'policy', policy, 'granted', granted)
                                ORDER BY tab)
               FROM others WHERE triggers IS NOT NULL OR policy OR granted),
    'schemas', (SELECT jsonb_agg(DISTINCT quote_ident(n.nspname)) FROM pg_namespace n, aclexplode(n.nspacl) a
                WHERE a.grantee = to_regrole('atlas_sync') AND n.nspname <> 'sync'),
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
                 FROM pg_policy WHERE polname LIKE 'atlas\_%' AND polrelid IN (SELECT oid FROM chat)
                     AND polrelid IS DISTINCT FROM to_regclass('public.messages_archive')),
    'indexes', (SELECT jsonb_object_agg(i.relname, x.indisvalid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                WHERE x.indrelid = (SELECT oid FROM old)),
    'keys', (SELECT jsonb_object_agg(quote_ident(conname), convalidated) FROM pg_constraint
             WHERE conrelid = (SELECT oid FROM old) AND contype = 'f'),
    'publications', (SELECT jsonb_agg(quote_ident(p.pubname) ORDER BY p.pubname)
                     FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                     WHERE r.prrelid = (SELECT oid FROM old) AND pg_has_role(p.pubowner, 'USAGE')),
    'published', EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                         WHERE p.pubname = 'atlas_sync' AND r.prrelid = to_regclass('sync.log')),
    'usage', (SELECT jsonb_agg(a.grantee::regrole::text) FROM pg_namespace n, aclexplode(n.nspacl) a
              WHERE n.nspname = 'public' AND a.grantee <> 0 AND a.privilege_type = 'USAGE')
))

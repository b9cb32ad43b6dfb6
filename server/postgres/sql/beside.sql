-- Where the partitions of messages and of its archive lie, as one JSON object (beside.Beside).
WITH tables AS (
    SELECT oid, relname FROM pg_class
    WHERE oid IN (to_regclass('public.messages'), to_regclass('public.messages_archive')) AND relkind = 'p'
), partitions AS (
    SELECT c.oid, c.relname, c.relnamespace, c.relacl, c.relowner
    FROM tables t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid
), elsewhere AS (
    SELECT * FROM partitions WHERE relnamespace = to_regnamespace('sync')
), ours AS (
    SELECT oid FROM tables WHERE relname = 'messages' OR to_regclass('sync.migrations') IS NOT NULL
    UNION ALL SELECT oid FROM partitions
), names AS (
    SELECT relname FROM pg_class c
    WHERE relnamespace = 'public'::regnamespace AND oid NOT IN (SELECT oid FROM ours)
      AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = c.oid AND x.indrelid IN (SELECT oid FROM ours))
    UNION SELECT typname FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typrelid = 0 AND typelem = 0
)
SELECT jsonb_build_object(
    'archived', EXISTS (SELECT FROM tables t JOIN ours o USING (oid) WHERE t.relname = 'messages_archive'),
    'taken', (SELECT coalesce(jsonb_agg(n.relname ORDER BY n.relname), '[]') FROM names n
              WHERE n.relname ~ '^messages_(v1(_pkey)?|newest|default|archive|(archive_)?\d{4}_\d\d(_on)?)$'
                 OR n.relname IN (SELECT relname FROM elsewhere)),
    'elsewhere', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', e.relname,
            'indexes', ARRAY(SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                             WHERE x.indrelid = e.oid AND EXISTS (SELECT FROM pg_class n
                                 WHERE n.relnamespace = 'public'::regnamespace AND n.relname = i.relname) ORDER BY 1),
            'roles', ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END FROM (
                               SELECT (aclexplode(e.relacl)).grantee
                               UNION SELECT (aclexplode(c.attacl)).grantee FROM pg_attribute c WHERE c.attrelid = e.oid) a
                           WHERE a.grantee <> e.relowner ORDER BY 1),
            'publications', ARRAY(SELECT quote_ident(p.pubname)
                                  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                                  WHERE r.prrelid = e.oid AND pg_has_role(p.pubowner, 'USAGE') ORDER BY 1))
        ORDER BY e.relname = 'messages_default' DESC, e.relname), '[]') FROM elsewhere e)
)

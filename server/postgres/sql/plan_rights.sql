-- Sentences about the rights of the server's role, and the policies for it, that `migrate` changes.
-- $1 the columns that it reads, by table, as one JSON object. The tables are as SQL has them
WITH wanted AS (
    SELECT w.tab, to_regclass(w.tab) AS oid, ARRAY(SELECT jsonb_array_elements_text(w.names)) AS names
    FROM jsonb_each($1::text::jsonb) AS w (tab, names)
), ours AS (
    SELECT oid FROM pg_roles WHERE rolname = 'atlas_sync'
), lacking AS (
    SELECT w.tab, string_agg(quote_ident(a.attname), ', ' ORDER BY array_position(w.names, a.attname::text)) AS names
    FROM wanted w JOIN pg_attribute a ON a.attrelid = w.oid AND a.attname::text = ANY (w.names) AND NOT a.attisdropped
    WHERE has_column_privilege((SELECT oid FROM ours), w.oid, a.attnum, 'SELECT') IS NOT TRUE
    GROUP BY w.tab
), excess AS (
    SELECT format('%I.%I', n.nspname, c.relname) AS tab,
           string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS names
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL aclexplode(a.attacl) r
    LEFT JOIN wanted w ON w.oid = c.oid
    WHERE r.grantee = (SELECT oid FROM ours) AND n.nspname <> 'sync' AND NOT a.attisdropped AND (a.attname::text = ANY (w.names)) IS NOT TRUE
    GROUP BY n.nspname, c.relname
)
SELECT format('atlas_sync, the role of the server, may read these columns of %s: %s.', tab, names) AS says FROM lacking
UNION ALL
SELECT format('atlas_sync, the role of the server, may no longer read these columns of %s: %s.', tab, names) FROM excess
UNION ALL
SELECT format('The row policy atlas_sync_reads lets atlas_sync read all rows of %s.', w.tab)
FROM wanted w JOIN pg_class c ON c.oid = w.oid
WHERE c.relrowsecurity AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = w.oid AND p.polname = 'atlas_sync_reads')
UNION ALL
SELECT format('The row policy atlas_sync_reads of %I.%I is dropped.', n.nspname, c.relname)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.polname = 'atlas_sync_reads' AND n.nspname <> 'sync' AND c.oid NOT IN (SELECT oid FROM wanted WHERE oid IS NOT NULL)

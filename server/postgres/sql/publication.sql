-- The tables that are to be in the publication atlas_sync, or are: for each the columns to be published (those wanted and the
-- replica identity), why it cannot be published, and the columns that are published. sync.withdraw() judges likewise.
-- $1 the columns that are wanted, by table, as one JSON object. The tables are as SQL has them
WITH RECURSIVE listed AS (
    SELECT r.prrelid AS oid, ARRAY(SELECT a.attname::text FROM pg_attribute a
                                   WHERE a.attrelid = r.prrelid AND a.attnum > 0 AND NOT a.attisdropped
                                     AND (r.prattrs IS NULL OR a.attnum = ANY (r.prattrs)) ORDER BY a.attnum) AS published
    FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = 'atlas_sync'
), wanted AS (
    SELECT w.tab, to_regclass(w.tab)::oid AS oid, ARRAY(SELECT jsonb_array_elements_text(w.names)) AS names
    FROM jsonb_each($1::text::jsonb) AS w (tab, names)
), members AS (
    SELECT coalesce(w.tab, format('%I.%I', n.nspname, c.relname)) AS tab, coalesce(w.oid, l.oid) AS oid, w.names, l.published
    FROM wanted w FULL JOIN listed l ON l.oid = w.oid
    LEFT JOIN pg_class c ON c.oid = l.oid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
), parts AS (
    SELECT oid AS root, oid FROM members WHERE oid IS NOT NULL
    UNION
    SELECT p.root, i.inhrelid FROM parts p JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'p'
    JOIN pg_inherits i ON i.inhparent = p.oid
), leaves AS (
    SELECT p.root, c.oid, c.relreplident, c.relpersistence, i.names
    FROM parts p JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r'
    LEFT JOIN LATERAL (
        SELECT array_agg(a.attname::text) AS names
        FROM pg_index x CROSS JOIN unnest(x.indkey) WITH ORDINALITY AS k (attnum, i)
        JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
        WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate AND k.i <= x.indnkeyatts
          AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END
    ) i ON true
), columns AS (
    SELECT m.oid, array_agg(a.attname::text ORDER BY a.attnum) AS names,
           string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (
               WHERE a.attgenerated <> '' AND (a.attgenerated <> 's' OR current_setting('server_version_num')::int < 180000)
           ) AS generated
    FROM members m JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE a.attname::text = ANY (m.names)
       OR EXISTS (SELECT FROM leaves l WHERE l.root = m.oid AND a.attname::text = ANY (l.names))
    GROUP BY m.oid
)
SELECT m.tab, CASE WHEN m.names IS NOT NULL THEN coalesce(w.names, m.names) END AS columns, m.published,
       CASE WHEN m.names IS NULL THEN NULL
            WHEN c.oid IS NULL THEN 'it does not exist'
            WHEN c.relkind NOT IN ('r', 'p') THEN 'it is no table'
            WHEN NOT pg_has_role(o.role, c.relowner, 'USAGE')
            THEN format('it belongs to %s, and %s is no member of that role', c.relowner::regrole, o.role::regrole)
            WHEN EXISTS (SELECT FROM leaves l WHERE l.root = m.oid AND l.relpersistence <> 'p') THEN 'it is not logged'
            WHEN EXISTS (SELECT FROM leaves l WHERE l.root = m.oid AND l.relreplident = 'f')
            THEN 'its REPLICA IDENTITY is FULL, which allows no list of columns'
            WHEN EXISTS (SELECT FROM leaves l WHERE l.root = m.oid AND l.names IS NULL)
            THEN 'it has no replica identity, as a primary key is'
            WHEN w.generated IS NOT NULL THEN format('this Postgres cannot publish its generated column %s', w.generated)
       END AS why
FROM members m LEFT JOIN pg_class c ON c.oid = m.oid LEFT JOIN columns w ON w.oid = m.oid
CROSS JOIN (SELECT coalesce((SELECT pubowner FROM pg_publication WHERE pubname = 'atlas_sync'), r.oid) AS role
            FROM pg_roles r WHERE r.rolname = current_user) o
ORDER BY m.names IS NULL, m.tab <> 'sync.log', m.tab

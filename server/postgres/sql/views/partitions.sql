-- Every partition with its bounds. MINVALUE and MAXVALUE appear as the infinities. A default partition has no bounds.
CREATE OR REPLACE VIEW sync.partitions AS
WITH bounds AS (
    SELECT i.inhparent, p.relname AS parent, i.inhrelid, pg_get_expr(c.relpartbound, c.oid) AS bound,
           regexp_match(pg_get_expr(c.relpartbound, c.oid),
                        'FROM \(''?(MINVALUE|[^'')]+)''?\) TO \(''?(MAXVALUE|[^'')]+)''?\)') AS b
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE i.inhparent IN (to_regclass('public.messages'), to_regclass('public.messages_archive'), to_regclass('sync.log'),
                          to_regclass('sync.usage_logs'))
)
SELECT parent::text AS parent, inhrelid::regclass AS partition, bound = 'DEFAULT' AS is_default,
       CASE WHEN b[1] = 'MINVALUE' THEN '-infinity'
            WHEN parent = 'log' THEN to_timestamp(b[1]::numeric / 1000000) ELSE b[1]::timestamptz END AS since,
       CASE WHEN b[2] = 'MAXVALUE' THEN 'infinity'
            WHEN parent = 'log' THEN to_timestamp(b[2]::numeric / 1000000) ELSE b[2]::timestamptz END AS until
FROM bounds;
GRANT SELECT ON sync.partitions TO atlas_sync;

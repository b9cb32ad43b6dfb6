-- All tables of the database that a declaration could name, as one JSON object: declaration/catalogue.py.
-- search_path must be pg_catalog: then types and expressions have their schema.
WITH RECURSIVE relations AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.relowner, c.relrowsecurity,
           c.relforcerowsecurity, c.reltuples
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
      AND (n.nspname NOT IN ('information_schema', 'sync', 'auth') AND n.nspname !~ '^pg_'
           OR n.nspname = 'sync' AND c.relname = 'daily_usage')
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), tables AS (
    SELECT * FROM relations WHERE relkind IN ('r', 'p')
), attributes AS (
    SELECT a.* FROM pg_attribute a JOIN tables t ON t.oid = a.attrelid AND NOT t.relispartition
    WHERE a.attnum > 0 AND NOT a.attisdropped
), domains AS (
    -- Each type that is used, and what is beneath it.
    SELECT used.oid AS type, used.oid AS beneath
    FROM (SELECT DISTINCT atttypid AS oid FROM attributes) used
    UNION ALL
    SELECT d.type, t.typbasetype FROM domains d JOIN pg_type t ON t.oid = d.beneath WHERE t.typtype = 'd'
), bases AS (
    SELECT d.type, t.oid, t.typtype, CASE WHEN t.typcategory = 'A' THEN nullif(t.typelem, 0) END AS element
    FROM domains d JOIN pg_type t ON t.oid = d.beneath WHERE t.typtype <> 'd'
), types AS (
    SELECT b.type, b.oid <> b.type AS is_domain, jsonb_build_object(
               'name', format_type(b.oid, NULL), 'kind', b.typtype,
               'element', CASE WHEN b.element IS NOT NULL THEN (
                   WITH RECURSIVE inner_domains AS (
                       SELECT b.element AS beneath
                       UNION ALL
                       SELECT t.typbasetype FROM inner_domains i JOIN pg_type t ON t.oid = i.beneath
                       WHERE t.typtype = 'd'
                   )
                   SELECT jsonb_build_object('name', format_type(t.oid, NULL), 'kind', t.typtype)
                   FROM inner_domains i JOIN pg_type t ON t.oid = i.beneath WHERE t.typtype <> 'd') END) AS described
    FROM bases b
)
SELECT jsonb_strip_nulls(jsonb_build_object(
    'tables', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'schema', t.nspname, 'name', t.relname, 'owner', pg_get_userbyid(t.relowner),
            'partition_of', CASE WHEN t.relispartition THEN (
                SELECT format('%s.%s', n.nspname, c.relname)
                FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE i.inhrelid = t.oid LIMIT 1) END,
            'partitioned_by', CASE WHEN t.relkind = 'p' THEN (
                SELECT coalesce(jsonb_agg(a.attname ORDER BY k.n), '[]')
                FROM pg_partitioned_table p, unnest(p.partattrs) WITH ORDINALITY k (attnum, n)
                JOIN attributes a ON a.attrelid = t.oid AND a.attnum = k.attnum
                WHERE p.partrelid = t.oid) END,
            'rows', CASE t.relkind
                WHEN 'r' THEN t.reltuples::bigint
                ELSE (SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
                      FROM pg_partition_tree(t.oid) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf) END,
            'secured', t.relrowsecurity, 'forced', t.relforcerowsecurity,
            'columns', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'name', a.attname, 'type', y.described,
                    'domain', CASE WHEN y.is_domain THEN format_type(a.atttypid, NULL) END,
                    'required', a.attnotnull,
                    'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
                    'generated', nullif(a.attgenerated, ''), 'identity', nullif(a.attidentity, '')
                ) ORDER BY a.attnum)
                FROM attributes a JOIN types y ON y.type = a.atttypid
                LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                WHERE a.attrelid = t.oid), '[]'),
            'key', coalesce((
                SELECT jsonb_agg(a.attname ORDER BY k.n)
                FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY k (attnum, n)
                JOIN attributes a ON a.attrelid = t.oid AND a.attnum = k.attnum
                WHERE c.conrelid = t.oid AND c.contype = 'p'), '[]'),
            'foreign', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'schema', n.nspname, 'table', r.relname, 'on_delete', c.confdeltype,
                    'columns', (SELECT jsonb_agg(a.attname ORDER BY k.n)
                                FROM unnest(c.conkey) WITH ORDINALITY k (attnum, n)
                                JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
                    'referenced', (SELECT jsonb_agg(a.attname ORDER BY k.n)
                                   FROM unnest(c.confkey) WITH ORDINALITY k (attnum, n)
                                   JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum)
                ) ORDER BY c.conname)
                FROM pg_constraint c JOIN pg_class r ON r.oid = c.confrelid
                JOIN pg_namespace n ON n.oid = r.relnamespace
                WHERE c.conrelid = t.oid AND c.contype = 'f' AND c.conparentid = 0 AND NOT t.relispartition), '[]'),
            'indexes', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'name', c.relname, 'unique', i.indisunique AND i.indimmediate,
                    'columns', (SELECT jsonb_agg(a.attname ORDER BY k.n)
                                FROM unnest(i.indkey) WITH ORDINALITY k (attnum, n)
                                LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum AND k.attnum > 0
                                WHERE k.n <= i.indnkeyatts),
                    'options', (SELECT jsonb_agg(o.option ORDER BY o.n)
                                FROM unnest(i.indoption) WITH ORDINALITY o (option, n))
                ) ORDER BY c.relname)
                FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
                WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
                  AND NOT t.relispartition), '[]')
        ) ORDER BY t.nspname, t.relname)
        FROM tables t), '[]'),
    'others', coalesce((
        SELECT jsonb_agg(jsonb_build_object('schema', nspname, 'name', relname, 'kind', relkind)
                         ORDER BY nspname, relname)
        FROM relations WHERE relkind NOT IN ('r', 'p')), '[]')
))

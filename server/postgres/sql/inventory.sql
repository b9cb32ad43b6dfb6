-- Finds faults in what Atlas Sync made in a database and a running server depends on: one row for each object or right that
-- is missing or altered, in the order in which they have to be mended. inventory_rest.sql finds the others.
-- `what` names the object and `problem` its fault. `mend`: statements for the owner of the tables; NULL: `problem` says what
-- to do. `serving`: while the fault lasts, the server may not see every change, or Postgres may not record every change.
-- It reads only the catalog, needs no right to the objects, and calls no function that prints a definition, so it locks no
-- table of the app. Run it with search_path = pg_catalog, pg_temp.
WITH RECURSIVE login AS MATERIALIZED (
    SELECT r.oid, r.rolname AS name, r.rolsuper OR r.rolbypassrls AS sees_all, a.oid AS ours
    FROM pg_roles r LEFT JOIN pg_roles a ON a.rolname = 'atlas_sync'
    WHERE r.rolname = current_user
), relations (nsp, rel, kind, reads, serves) AS (
    -- reads: the server may read all of it, by a right and, for a table, by the policy atlas_sync_reads. It may read some
    -- columns of each declared table
    -- serves: a fault of it is `serving`
    SELECT nsp, rel, CASE WHEN parted THEN 'partitioned table' ELSE 'table' END, false, true FROM sync.kinds
    UNION ALL
    SELECT 'sync', 'all_' || k.rel, 'view', true, true FROM sync.kinds k
    WHERE EXISTS (SELECT FROM sync.kinds a WHERE a.kind = k.kind AND (a.nsp, a.rel) = (k.nsp, k.rel || '_archive'))
    UNION ALL
    VALUES ('sync', 'meta', 'table', true, true),
           ('sync', 'feeds', 'table', true, true),
           ('sync', 'log', 'partitioned table', true, true),
           ('sync', 'nobody', 'table', false, true),
           ('sync', 'histories', 'table', true, true),
           ('sync', 'declaration', 'table', true, true),
           ('sync', 'kinds', 'table', true, true),
           ('sync', 'clients', 'table', true, false),
           ('sync', 'servers', 'table', true, false),
           ('sync', 'devices', 'table', true, false),
           ('sync', 'migrations', 'table', true, false),
           ('sync', 'partitions', 'view', true, false),
           ('sync', 'response_cache', 'table', false, false),
           ('sync', 'response_leases', 'table', false, false),
           ('sync', 'response_flushes', 'table', false, false),
           ('sync', 'streams', 'table', false, false),
           ('sync', 'stream_text', 'partitioned table', false, false),
           ('sync', 'original', 'table', false, false),
           ('sync', 'usage_logs', 'partitioned table', false, false),
           ('sync', 'usage_batches', 'table', false, false),
           ('sync', 'usage_keys', 'table', false, false),
           ('sync', 'usage_state', 'table', false, false),
           ('sync', 'daily_costs', 'table', false, false),
           ('sync', 'daily_conversations', 'table', false, false),
           ('sync', 'model_prices', 'table', false, false)
    UNION ALL
    -- It may be declared, too.
    SELECT 'sync', 'daily_usage', 'table', false, false
    WHERE NOT EXISTS (SELECT FROM sync.kinds k WHERE (k.nsp, k.rel) = ('sync', 'daily_usage'))
), columns (nsp, rel, type, names, declared) AS (
    SELECT k.nsp, k.rel, to_regtype(c.type), ARRAY[c.name], true
    FROM sync.kinds k CROSS JOIN unnest(k.columns, k.types) AS c (name, type)
    UNION ALL
    SELECT 'sync', 'all_' || k.rel, to_regtype(c.type), ARRAY[c.name], false
    FROM sync.kinds k JOIN sync.kinds a ON a.kind = k.kind AND (a.nsp, a.rel) = (k.nsp, k.rel || '_archive')
    CROSS JOIN unnest(k.columns, k.types) AS c (name, type)
    UNION ALL
    SELECT 'sync', ours.rel, ours.type,
           ARRAY(SELECT unnest(ours.names)
                 EXCEPT SELECT unnest(k.columns) FROM sync.kinds k WHERE (k.nsp, k.rel) = ('sync', ours.rel)), false
    FROM (
    VALUES ('declaration', 'text'::regtype, '{digest,hash,checksum}'::text[]),
           ('declaration', 'bool', '{only_one}'),
           ('declaration', 'jsonb', '{declared,former}'),
           ('meta', 'bool', '{only_one}'),
           ('meta', 'uuid', '{history}'),
           ('meta', 'text', '{channel,doorbells}'),
           ('meta', 'timestamptz', '{archived_until,maintained_at,quiet_until}'),
           ('feeds', 'uuid', '{user_id}'),
           ('feeds', 'int8', '{seq,prev,mark,prev_mark}'),
           ('nobody', 'int4', '{place}'),
           ('nobody', 'int8', '{mark}'),
           ('log', 'uuid', '{user_id,row_id}'),
           ('log', 'int8', '{seq,n,prev,mark,prev_mark}'),
           ('log', '"char"', '{kind,op}'),
           ('log', 'timestamptz', '{row_at}'),
           ('log', 'text[]', '{row_key}'),
           ('histories', 'int8', '{n,system}'),
           ('histories', 'text', '{epoch,identity,why}'),
           ('histories', 'int4', '{timeline}'),
           ('histories', 'timestamptz', '{began_at}'),
           ('clients', 'uuid', '{user_id,client_id}'),
           ('clients', 'int8', '{last_mutation,generation,former_until}'),
           ('clients', 'int8[]', '{digests,former}'),
           ('clients', 'text', '{session}'),
           ('clients', 'jsonb', '{rejected}'),
           ('clients', 'timestamptz', '{pushed_at}'),
           ('servers', 'text', '{server}'),
           ('servers', 'timestamptz', '{seen_at}'),
           ('devices', 'uuid', '{user_id,client_id}'),
           ('devices', 'int8', '{seq}'),
           ('devices', 'int4', '{close_code}'),
           ('devices', 'text', '{session,server,state}'),
           ('devices', 'timestamptz', '{connected_at,noted_at}'),
           ('migrations', 'text', '{version_num}'),
           ('migrations', 'jsonb', '{definitions}'),
           ('partitions', 'text', '{parent}'),
           ('partitions', 'regclass', '{partition}'),
           ('partitions', 'bool', '{is_default}'),
           ('partitions', 'timestamptz', '{since,until}'),
           ('response_cache', 'text', '{query_hash,tier,response_text}'),
           ('response_cache', 'int4', '{hit_count,tokens}'),
           ('response_cache', 'timestamptz', '{expires_at,created_at}'),
           ('response_cache', 'numeric', '{cost}'),
           ('response_cache', 'int8', '{version}'),
           ('response_leases', 'text', '{query_hash,tier}'),
           ('response_leases', 'int8', '{fence}'),
           ('response_leases', 'timestamptz', '{until}'),
           ('response_flushes', 'uuid', '{process}'),
           ('response_flushes', 'int8', '{number}'),
           ('response_flushes', 'timestamptz', '{flushed_at}'),
           ('streams', 'uuid', '{id,user_id}'),
           ('streams', '"char"', '{kind}'),
           ('streams', 'text[]', '{row_key}'),
           ('streams', 'text', '{name,base,holder,state}'),
           ('streams', 'int8', '{since}'),
           ('streams', 'int2', '{slot}'),
           ('streams', 'int4', '{looks}'),
           ('streams', 'bool', '{writes}'),
           ('streams', 'timestamptz', '{opened_at,touched_at,stop_at,ended_at,look_at,settled_at}'),
           ('stream_text', 'int2', '{slot}'),
           ('stream_text', 'uuid', '{stream}'),
           ('stream_text', 'int4', '{at}'),
           ('stream_text', 'text', '{text,ended}'),
           ('original', 'jsonb', '{facts}'),
           ('original', 'timestamptz', '{taken_at}'),
           ('usage_logs', 'int8', '{id,batch}'),
           ('usage_logs', 'uuid', '{user_id}'),
           ('usage_logs', 'text', '{event}'),
           ('usage_logs', 'jsonb', '{data}'),
           ('usage_logs', 'timestamptz', '{timestamp}'),
           ('usage_batches', 'int8', '{batch}'),
           ('usage_batches', 'timestamptz', '{written_at}'),
           ('usage_keys', 'uuid', '{key,digest}'),
           ('usage_keys', 'timestamptz', '{written_at}'),
           ('usage_state', 'bool', '{only_one}'),
           ('usage_state', 'jsonb', '{prices,tiers}'),
           ('usage_state', 'int4', '{unusual_users,unusual_tiers,models_without_price}'),
           ('daily_usage', 'int8', '{id,total_tokens_used}'),
           ('daily_usage', 'uuid', '{user_id}'),
           ('daily_usage', 'date', '{date}'),
           ('daily_usage', 'int4', '{conversations_count}'),
           ('daily_usage', 'numeric', '{api_cost_estimate}'),
           ('daily_usage', 'text', '{tier}'),
           ('daily_usage', 'timestamptz', '{tier_at}'),
           ('daily_costs', 'uuid', '{user_id}'),
           ('daily_costs', 'date', '{date}'),
           ('daily_costs', 'text', '{tier,model}'),
           ('daily_costs', 'int8', '{requests,input_tokens,output_tokens}'),
           ('daily_costs', 'numeric', '{cost}'),
           ('daily_conversations', 'date', '{date}'),
           ('daily_conversations', 'uuid', '{user_id,conversation_id}'),
           ('model_prices', 'text', '{model}'),
           ('model_prices', 'numeric', '{input,output}'),
           ('model_prices', 'date', '{valid_from}')
    ) ours (rel, type, names)
), functions (name, arguments, definer, called, serves) AS (
    -- definer: it runs as its owner; called: the server itself calls it
    SELECT 'record_' || kind, '', true, false, true FROM sync.kinds
    UNION
    SELECT 'write_' || kind, 'text, uuid, text[], jsonb, timestamp with time zone', false, false, true
    FROM sync.kinds WHERE writable
    UNION ALL
    VALUES ('record', 'uuid, "char", "char", uuid, timestamp with time zone, text[], bigint', true, false, true),
           ('hold', '"char", text, boolean', true, false, true),
           ('note_move', 'uuid', false, false, true),
           ('noted_moves', '', false, false, true),
           ('moved', '"char"', false, false, true),
           ('refuse_unseen', '', false, false, true),
           ('write', 'text, text, uuid, text[], jsonb, timestamp with time zone', false, false, true),
           ('admitted', 'uuid', false, false, true),
           ('user_of', 'text', false, true, true),
           ('instant', 'text', false, true, true),
           ('microseconds', 'timestamp with time zone', false, true, true),
           ('elements', 'text', false, false, true),
           ('strays', 'text', false, false, false),
           ('stray_messages', '', false, false, false),
           ('tier', 'uuid', false, false, false),
           ('refuse_hidden', 'text', false, false, true),
           ('seq_at', 'timestamp with time zone', false, true, true),
           ('identity', '', true, false, true),
           ('epoch', '', true, true, true),
           ('standing', '', true, true, true),
           ('begin_history', 'text', true, true, true),
           ('hidden', '', true, true, true),
           ('listening', '', true, true, true),
           ('keep_quiet', '', true, true, false),
           ('has_listeners', '', false, false, false),
           ('withdraw', '', true, true, false),
           ('withdraw_on_ddl', '', true, false, false),
           ('push', 'uuid[], uuid[], text[], boolean[], bigint[], integer[], text[], text[], text[], text[], text[], '
                    'timestamp with time zone[], bigint[], bigint[], bigint[], text',
            true, true, true),
           ('apply', 'uuid[], bigint[], integer[], bigint[], boolean[], text[], text[], text[], text[], text[], '
                     'timestamp with time zone[], jsonb[]', false, false, true),
           ('differ', 'bigint, bigint[], bigint, bigint[]', false, false, true),
           ('keep', 'bigint, bigint, bigint[], bigint, bigint, bigint[]', false, false, true),
           ('recognised', 'bigint[], bigint[]', false, false, true),
           ('run_deferred_triggers', '', false, false, true),
           ('portion', '', false, false, true),
           ('most_devices', '', false, false, true),
           ('refuse_truncate', '', false, false, false),
           ('note', 'text, uuid[], uuid[], text[], bigint[], text[], integer[], timestamp with time zone[]',
            true, true, false),
           ('take_response', 'text, text, double precision', true, true, false),
           ('response_version', '', false, false, false),
           ('put_response', 'text, text, text, double precision, integer, numeric, bigint', true, true, false),
           ('drop_response', 'text, text', true, true, false),
           ('release_response', 'text, text, bigint', true, true, false),
           ('count_hits', 'uuid, bigint, text[], text[], bigint[]', true, true, false),
           ('stream_slot', '', false, false, false),
           ('stream_end', 'smallint, uuid', false, false, false),
           ('ring_streams', 'text, uuid[]', false, false, false),
           ('open_stream', 'uuid, uuid, text, text[], text, boolean, integer, text', true, true, false),
           ('append_streams', 'text, uuid[], integer[], text[]', true, true, false),
           ('read_streams', 'uuid[], integer[]', true, true, false),
           ('end_stream', 'text, uuid, text, integer, boolean', true, true, false),
           ('stop_streams', 'uuid[]', true, true, false),
           ('touch_streams', 'text, uuid[]', true, true, false),
           ('lost_streams', 'uuid[]', true, true, false),
           ('settle_stream', 'text, uuid, boolean', false, false, false),
           ('settle_streams', 'text, interval, interval', true, true, false),
           ('close_streams', 'jsonb', true, false, false),
           ('rotate_streams', '', true, true, false),
           ('trace_streams', 'text, text[]', true, true, false),
           ('streamed', 'text, text[], text', false, false, false),
           ('settle', 'text, uuid, text[], text, text, text, text, boolean', false, false, false),
           ('vitals', '', true, true, false),
           ('partitions_reach', 'text', false, true, false),
           ('ensure_partitions', 'timestamp with time zone, timestamp with time zone', false, false, false),
           ('make_partition', 'text, timestamp with time zone, boolean', false, false, false),
           ('close_partition', 'text, text', false, false, false),
           ('move_strays', 'regclass, regclass, text, text, text', false, false, false),
           ('turn_default', 'text, timestamp with time zone, timestamp with time zone', false, false, false),
           ('archive_partition', 'regclass', false, false, false),
           ('bound_partition', 'regclass', false, false, false),
           ('begin_batch', '', true, false, false),
           ('log_usage', 'uuid[], uuid[], text[]', true, true, false),
           ('usage_vitals', '', true, true, false),
           ('count_usage', 'integer', false, false, false),
           ('cost', 'text, date, bigint, bigint', false, false, false),
           ('price_list', '', false, false, false)
), recorded (nsp, rel, function, columns, casts, condition) AS (
    SELECT nsp, rel, 'record_' || kind, watched, casts, condition FROM sync.kinds
), triggers (trigger, of_type) AS (
    -- of_type: pg_trigger.tgtype
    VALUES ('atlas_sync_record', 13),             -- AFTER INSERT OR DELETE, FOR EACH ROW
           ('atlas_sync_record_update', 17),      -- AFTER UPDATE, FOR EACH ROW
           ('atlas_sync_refuse_truncate', 34)     -- BEFORE TRUNCATE, FOR EACH STATEMENT

-- ---- What there is -------------------------------------------------------------------------------------------------
), schemas AS MATERIALIZED (
    SELECT w.nsp, n.oid, n.nspacl FROM (SELECT 'sync' UNION SELECT nsp FROM sync.kinds) AS w (nsp)
    LEFT JOIN pg_namespace n ON n.nspname = w.nsp
), tables AS MATERIALIZED (
    SELECT w.nsp, w.rel, w.kind, w.reads, w.serves, k.rel IS NOT NULL AS declared, k.secured IS NOT FALSE AS closed,
           format('%I.%I', w.nsp, w.rel) AS name, c.oid, c.relkind, c.relowner,
           c.relrowsecurity AS secured, c.relforcerowsecurity AS forced, c.relacl, c.reloptions
    FROM relations w LEFT JOIN schemas n ON n.nsp = w.nsp
    LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel
    LEFT JOIN sync.kinds k ON k.nsp = w.nsp AND k.rel = w.rel
), parts AS (
    SELECT t.nsp AS nsp_of, t.rel AS of, t.oid AS root, t.oid AS part FROM tables t WHERE t.relkind = 'p'
    UNION ALL
    SELECT p.nsp_of, p.of, p.root, i.inhrelid FROM parts p JOIN pg_inherits i ON i.inhparent = p.part AND NOT i.inhdetachpending
), partitions AS MATERIALIZED (
    SELECT p.nsp_of, p.of, p.root, p.part AS oid, format('%I.%I', n.nspname, c.relname) AS name, c.relname, n.nspname,
           c.relrowsecurity AS secured, c.relowner, c.relacl,
           -- The app's own table, which earlier versions kept in schema sync, is closed when it leaves that. A table that the
           -- app had partitioned has partitions of the app's beside ours.
           CASE n.nspname WHEN 'sync' THEN c.relname <> 'messages_v1'
                ELSE r.kind = 'partitioned table' AND c.relname ~ format(
                    '^%s(_archive)?_(\d{4}_\d\d(_on)?|default|v1)$', regexp_replace(p.of, '_archive$', '')) END AS ours
    FROM parts p JOIN tables r ON r.oid = p.root JOIN pg_class c ON c.oid = p.part JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE p.part <> p.root
), routines AS MATERIALIZED (
    SELECT w.*, format('sync.%I(%s)', w.name, w.arguments) AS signature, p.oid, p.proowner, p.prosecdef, p.proconfig, p.proacl
    FROM functions w LEFT JOIN schemas n ON n.nsp = 'sync'
    LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = w.name AND oidvectortypes(p.proargtypes) = w.arguments
), attributes AS MATERIALIZED (
    SELECT t.nsp, t.rel, t.name AS tab, t.oid AS relid, t.serves, w.declared, t.relkind, w.type, want.col, a.attnum,
           format_type(a.atttypid, NULL) AS found,
           y.oid = w.type OR y.typbasetype = w.type OR w.type = 'text'::regtype AND y.typcategory IN ('S', 'E') AS fits
    FROM columns w JOIN tables t ON t.nsp = w.nsp AND t.rel = w.rel AND t.oid IS NOT NULL CROSS JOIN unnest(w.names) AS want (col)
    -- LIMIT 1 keeps this a look-up by index.
    LEFT JOIN LATERAL (
        SELECT * FROM pg_attribute WHERE attrelid = t.oid AND attname = want.col AND attnum > 0 AND NOT attisdropped LIMIT 1
    ) a ON true
    LEFT JOIN pg_type y ON y.oid = a.atttypid
), watched AS MATERIALIZED (
    -- The tables whose changes are recorded, and their partitions. `compares` describes the trigger's WHEN as the catalog
    -- stores it: the number of nodes without ORs (a restored dump has fewer of these), the number of comparisons, and the
    -- columns of OLD (1) and NEW (2). Printing the condition as SQL would lock the table.
    SELECT t.oid, t.name, t.oid AS root, r.function, f.oid AS function_oid,
           r.condition,
           (SELECT format('%s %s', 3 * count(*) + 2 * r.casts, count(*))
                   || string_agg(format(' 1.%s 2.%1$s', a.attnum), '' ORDER BY array_position(r.columns, a.col))
            FROM attributes a WHERE a.relid = t.oid AND a.col = ANY (r.columns) AND a.attnum IS NOT NULL
            HAVING count(*) = cardinality(r.columns)) AS compares
    FROM recorded r JOIN tables t ON t.nsp = r.nsp AND t.rel = r.rel AND t.oid IS NOT NULL LEFT JOIN routines f ON f.name = r.function
    UNION ALL
    SELECT p.oid, p.name, p.root, r.function, f.oid, NULL, NULL
    FROM recorded r JOIN partitions p ON p.nsp_of = r.nsp AND p.of = r.rel LEFT JOIN routines f ON f.name = r.function
), fired AS MATERIALIZED (
    -- The clone of a trigger on a partition may have another name; its parent trigger has the right one.
    SELECT g.oid, g.tgrelid, g.tgname, coalesce(p.tgname, g.tgname) AS name, g.tgparentid, g.tgfoid, g.tgtype, g.tgenabled,
           g.tgdeferrable AND g.tginitdeferred AS deferred, g.tgattr = ''::int2vector AS every_column, g.tgqual
    FROM watched w JOIN pg_trigger g ON g.tgrelid = w.oid AND NOT g.tgisinternal
    LEFT JOIN pg_trigger p ON p.oid = g.tgparentid
), judged AS MATERIALIZED (
    SELECT w.oid, w.name, w.root, w.trigger, w.of_type, w.function, w.condition, w.compares, g.tgname, w.of_type = 34 AS alone,
           CASE WHEN g.oid IS NULL THEN 'missing'
                WHEN g.tgtype <> w.of_type OR NOT g.every_column OR g.deferred IS DISTINCT FROM (w.of_type <> 34)
                     OR g.tgfoid IS DISTINCT FROM CASE w.of_type WHEN 34 THEN refusing.oid ELSE w.function_oid END
                     OR (g.tgqual IS NOT NULL) IS DISTINCT FROM (w.of_type = 17)
                     OR w.of_type = 17 AND w.compares IS NOT NULL AND w.compares <> (
                         SELECT format('%s %s',
                                       (length(q) - length(replace(q, '{', '')))
                                           - (length(q) - length(replace(q, '{RELABELTYPE', ''))) / 12
                                           - (length(q) - length(replace(q, ':boolop or', ''))) / 10,
                                       (length(q) - length(replace(q, '{DISTINCTEXPR', ''))) / 13)
                                || (SELECT string_agg(format(' %s.%s', split_part(v, ' ', 1), split_part(v, ' ', 3)),
                                                      '' ORDER BY i)
                                    FROM unnest(string_to_array(q, ':varno ')) WITH ORDINALITY AS u (v, i) WHERE i > 1)
                         FROM (SELECT g.tgqual::text) AS kept (q))
                THEN 'altered'
                WHEN g.tgenabled = 'D' THEN 'disabled'
                WHEN g.tgenabled = 'R' THEN 'for replicas only' END AS problem
    FROM (SELECT * FROM watched CROSS JOIN triggers) w
    LEFT JOIN routines refusing ON refusing.name = 'refuse_truncate'
    LEFT JOIN fired g ON g.tgrelid = w.oid AND g.name = w.trigger

), gone (declared) AS (
    -- What was declared and is no longer there was mostly renamed or dropped by the app's own migration.
    VALUES ('missing: if it was renamed or dropped on purpose, change the declaration and run `atlas-sync migrate '
            '--declaration …` with your file, else rename it back or restore it from a backup')

-- ---- Faults ---------------------------------------------------------------------------------------------------------
), wrong (turn, what, problem, mend, serving) AS (
    SELECT 1, format('role %I', w.role), 'missing', format('CREATE ROLE %I NOLOGIN NOINHERIT', w.role), w.role = 'atlas_sync'
    FROM (VALUES ('atlas_sync'), ('anon'), ('authenticated'), ('service_role')) AS w (role)
    WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.role)

    UNION ALL
    SELECT 2, format('membership of %I in atlas_sync', l.name),
           CASE WHEN pg_has_role(l.ours, 'MEMBER') THEN 'without its rights' ELSE 'missing' END,
           CASE WHEN current_setting('server_version_num')::int >= 160000 AND pg_has_role(l.ours, 'MEMBER')
                THEN format('GRANT atlas_sync TO %I WITH INHERIT TRUE', l.name)
                WHEN pg_has_role(l.ours, 'MEMBER') THEN format('ALTER ROLE %I INHERIT', l.name)
                ELSE format('GRANT atlas_sync TO %I', l.name) END, true
    FROM login l
    WHERE NOT pg_has_role(l.ours, 'USAGE')
      AND NOT EXISTS (SELECT FROM tables t WHERE t.declared AND pg_has_role(t.relowner, 'USAGE'))

    UNION ALL
    SELECT 3, format('schema %I', n.nsp),
           CASE WHEN n.nsp = 'sync' THEN 'missing: restore it from a backup' ELSE gone.declared END, NULL, true
    FROM schemas n CROSS JOIN gone WHERE n.oid IS NULL

    UNION ALL
    SELECT 4, format('%s %s', t.kind, t.name),
           CASE WHEN t.oid IS NULL AND t.kind = 'view' THEN 'missing'
                WHEN t.oid IS NULL AND t.declared THEN gone.declared
                WHEN t.oid IS NULL THEN 'missing: restore it from a backup'
                ELSE format('of another kind: make it a %s', t.kind) END, NULL, t.serves
    FROM tables t CROSS JOIN gone
    WHERE t.relkind IS NULL
       OR t.relkind NOT IN ('r', 'p') AND t.kind = 'table' OR t.relkind <> 'p' AND t.kind = 'partitioned table'
       OR t.relkind <> 'v' AND t.kind = 'view'

    UNION ALL
    SELECT 5, format('column %s.%I', a.tab, a.col),
           CASE WHEN a.attnum IS NULL AND a.declared
                THEN replace(gone.declared, 'rename it back',
                             format('run ALTER TABLE %s RENAME COLUMN … TO %I,', a.tab, a.col))
                WHEN a.declared
                THEN format('%s and was declared as %s: if it was retyped on purpose, run `atlas-sync migrate --declaration …` '
                            'with your file, else drop what of Atlas Sync depends on it, convert it, run `atlas-sync migrate`',
                            a.found, format_type(a.type, NULL))
                WHEN a.attnum IS NULL
                THEN format('missing: if it was renamed, run ALTER TABLE %s RENAME COLUMN … TO %I, else restore it from '
                            'a backup', a.tab, a.col)
                ELSE format('%s and must be %s: drop what of Atlas Sync depends on it, convert it, run `atlas-sync migrate`',
                            a.found, format_type(a.type, NULL)) END, NULL, a.serves
    FROM attributes a CROSS JOIN gone WHERE a.fits IS NOT TRUE

    UNION ALL
    SELECT 6, format('function sync.%I', f.name), 'missing', NULL, f.serves FROM routines f WHERE f.oid IS NULL

    UNION ALL
    SELECT 7, format('function sync.%I', f.name),
           CASE WHEN f.prosecdef <> f.definer THEN format('altered: it is not SECURITY %s', s.security)
                ELSE 'altered: it finds names outside of pg_catalog' END,
           format('ALTER FUNCTION %s SECURITY %s SET search_path = pg_catalog, pg_temp', f.signature, s.security),
           f.prosecdef <> f.definer AND f.serves
    FROM routines f CROSS JOIN LATERAL (SELECT CASE WHEN f.definer THEN 'DEFINER' ELSE 'INVOKER' END) AS s (security)
    WHERE f.oid IS NOT NULL
      AND (f.prosecdef <> f.definer OR 'search_path=pg_catalog, pg_temp' = ANY (f.proconfig) IS NOT TRUE
                                       -- Their callers set it for these.
                                       AND f.name NOT IN ('admitted', 'tier', 'settle') AND f.name NOT LIKE 'write%')

    UNION ALL
    SELECT 8, format('EXECUTE on function sync.%I', f.name), 'missing for atlas_sync',
           format('GRANT EXECUTE ON FUNCTION %s TO atlas_sync', f.signature), f.serves
    FROM routines f CROSS JOIN login l
    WHERE f.oid IS NOT NULL AND f.called AND has_function_privilege(l.ours, f.oid, 'EXECUTE') IS NOT TRUE

    UNION ALL
    SELECT 9, format('EXECUTE on function sync.%I', f.name), 'granted to PUBLIC',
           format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.signature)
               || CASE WHEN f.called THEN format('; GRANT EXECUTE ON FUNCTION %s TO atlas_sync', f.signature) ELSE '' END, false
    FROM routines f
    WHERE f.oid IS NOT NULL
      AND (f.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(f.proacl) a WHERE a.grantee = 0))

    UNION ALL
    SELECT 10, format('view %s', t.name), 'altered: it has the rights of its owner',
           format('ALTER VIEW %s SET (security_invoker = true)', t.name), false
    FROM tables t
    WHERE t.relkind = 'v' AND t.nsp = 'sync' AND t.rel LIKE 'all\_%' AND 'security_invoker=true' = ANY (t.reloptions) IS NOT TRUE

    UNION ALL
    SELECT 11, format('default partition %I.%I', t.nsp, w.rel),
           CASE WHEN d.relname IS NULL THEN 'missing' ELSE format('another one, %I: detach that', d.relname) END,
           CASE WHEN d.relname IS NOT NULL THEN NULL
                WHEN c.oid IS NOT NULL
                THEN format('ALTER TABLE %s ATTACH PARTITION %I.%I DEFAULT', t.name, t.nsp, w.rel)
                ELSE format('CREATE TABLE %4$I.%1$I (LIKE %2$s INCLUDING ALL EXCLUDING IDENTITY); '
                            'SELECT sync.close_partition(%3$L, %1$L); '
                            'ALTER TABLE %2$s ATTACH PARTITION %4$I.%1$I DEFAULT', w.rel, t.name, t.rel, t.nsp) END, false
    FROM (VALUES ('messages', 'messages_default'), ('log', 'log_default'), ('usage_logs', 'usage_logs_default')) AS w (of, rel)
    JOIN tables t ON t.rel = w.of AND t.kind = 'partitioned table' JOIN pg_partitioned_table p ON p.partrelid = t.oid
    JOIN schemas n ON n.nsp = t.nsp
    LEFT JOIN pg_class d ON d.oid = p.partdefid
    LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel
    WHERE (d.relname = w.rel AND d.relnamespace IN (n.oid, to_regnamespace('sync'))) IS NOT TRUE

    UNION ALL
    -- A trigger that was renamed still has the constraint of its old name.
    SELECT 12, format('trigger %I on %s', g.tgname, w.name), 'recording changes once more',
           format('DROP TRIGGER %I ON %s', g.tgname, w.name), false
    FROM fired g JOIN watched w ON w.oid = g.tgrelid
    WHERE g.tgfoid = w.function_oid AND g.tgparentid = 0
      AND g.tgname NOT IN (SELECT trigger FROM triggers)

    UNION ALL
    -- Enabling a trigger on the partitioned table enables it on all partitions, and dropping it drops it on all.
    SELECT 13, format('trigger %I on %s', j.trigger, j.name), j.problem,
           CASE WHEN j.problem NOT IN ('missing', 'altered')
                THEN format('ALTER TABLE %s ENABLE TRIGGER %I', j.name, j.tgname)
                WHEN j.of_type = 17 AND root.compares IS NULL THEN NULL  -- a column is missing
                ELSE CASE WHEN j.alone OR root.tgname IS NOT NULL
                          THEN format('DROP TRIGGER IF EXISTS %I ON %s; ', j.trigger, at.name) ELSE '' END
                     || CASE j.of_type
                        WHEN 34 THEN format('CREATE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT '
                                            'EXECUTE FUNCTION sync.refuse_truncate()', j.trigger, at.name)
                        WHEN 13 THEN format('CREATE CONSTRAINT TRIGGER %I AFTER INSERT OR DELETE ON %s DEFERRABLE INITIALLY '
                                            'DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.%I()', j.trigger, at.name, j.function)
                        WHEN 17 THEN format('CREATE CONSTRAINT TRIGGER %I AFTER UPDATE ON %s DEFERRABLE INITIALLY DEFERRED '
                                            'FOR EACH ROW %s EXECUTE FUNCTION sync.%I()', j.trigger, at.name,
                                            root.condition, j.function) END END,
           NOT j.alone
    FROM judged j
    JOIN judged root ON root.oid = j.root AND root.trigger = j.trigger
    CROSS JOIN LATERAL (SELECT CASE WHEN j.alone THEN j.name ELSE root.name END) AS at (name)
    WHERE j.problem IS NOT NULL AND (j.alone OR j.oid = j.root OR root.problem IS NULL)

    UNION ALL
    SELECT 13, format('trigger %I on %s', w.trigger, t.name),
           CASE WHEN g.oid IS NULL THEN 'missing' WHEN g.tgenabled = 'D' THEN 'disabled' WHEN g.tgenabled = 'R' THEN 'for replicas only'
                ELSE 'altered' END,
           format('DROP TRIGGER IF EXISTS %1$I ON %2$s; CREATE TRIGGER %1$I BEFORE INSERT ON %2$s FOR EACH STATEMENT '
                  'EXECUTE FUNCTION sync.begin_batch()', w.trigger, t.name), false
    FROM (VALUES ('atlas_sync_batch', 6)) AS w (trigger, of_type) JOIN tables t ON t.rel = 'usage_logs' AND t.relkind = 'p'
    LEFT JOIN routines f ON f.name = 'begin_batch'
    LEFT JOIN pg_trigger g ON g.tgrelid = t.oid AND g.tgname = w.trigger
    WHERE (g.tgtype = w.of_type AND g.tgfoid = f.oid AND g.tgenabled IN ('O', 'A')) IS NOT TRUE

    UNION ALL
    SELECT 14, format('row level security of %s', t.name), 'off',
           format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t.name), false
    FROM (SELECT name, secured FROM tables WHERE relkind IN ('r', 'p') AND closed
          UNION ALL
          SELECT name, secured FROM partitions WHERE ours) t
    WHERE NOT t.secured

    UNION ALL
    SELECT DISTINCT 14, format('rights on %s', p.name),
           format('granted to %s, who could reach rows past the policies of the partitioned table', w.grantee),
           format('REVOKE ALL ON %s FROM %s CASCADE', p.name, w.grantee), false
    FROM partitions p CROSS JOIN LATERAL aclexplode(p.relacl) a
    CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END) AS w (grantee)
    WHERE p.ours AND a.grantee <> p.relowner

    UNION ALL
    SELECT 15, format('row level security of %s', t.name),
           format('hiding rows from %I, as which functions of Atlas Sync run: run ', o.rolname)
               || CASE WHEN pg_has_role(o.oid, t.relowner, 'USAGE')
                       THEN format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, or ', t.name) ELSE '' END
               || format('ALTER ROLE %I BYPASSRLS', o.rolname), NULL, true
    FROM tables t CROSS JOIN (SELECT DISTINCT proowner FROM routines WHERE definer) f JOIN pg_roles o ON o.oid = f.proowner
    WHERE t.relkind IN ('r', 'p') AND t.secured AND NOT o.rolsuper AND NOT o.rolbypassrls
      AND (t.forced OR NOT pg_has_role(o.oid, t.relowner, 'USAGE'))

    UNION ALL
    SELECT 16, format('policy atlas_sync_reads on %s', t.name), CASE WHEN p.oid IS NULL THEN 'missing' ELSE 'altered' END,
           CASE WHEN p.oid IS NULL THEN '' ELSE format('DROP POLICY atlas_sync_reads ON %s; ', t.name) END
               || format('CREATE POLICY atlas_sync_reads ON %s FOR SELECT TO atlas_sync USING (true)', t.name), t.serves
    FROM tables t CROSS JOIN login l LEFT JOIN pg_policy p ON p.polrelid = t.oid AND p.polname = 'atlas_sync_reads'
    WHERE t.relkind IN ('r', 'p') AND (t.reads OR t.declared AND t.secured)
      AND (p.polpermissive AND p.polcmd IN ('r', '*') AND p.polroles && ARRAY[0::oid, l.ours]
           AND p.polqual::text ~ '^\{CONST :consttype 16 .*:constisnull false .*\[ (1( 0)*|(0 )*1) \]\}$') IS NOT TRUE

    UNION ALL
    SELECT 17, format('policy %I on %s', p.polname, t.name),
           format('RESTRICTIVE and for %s, so that it may hide rows from the server: run ALTER POLICY %I ON %s TO the roles '
                  'that it is meant for', CASE WHEN 0 = ANY (p.polroles) THEN 'everybody' ELSE 'its login' END,
                  p.polname, t.name),
           NULL, t.serves
    FROM tables t CROSS JOIN login l JOIN pg_policy p ON p.polrelid = t.oid
    WHERE t.relkind IN ('r', 'p') AND (t.reads OR t.declared AND t.secured) AND NOT p.polpermissive AND p.polcmd IN ('r', '*')
      AND p.polqual::text !~ '^\{CONST :consttype 16 .*:constisnull false .*\[ (1( 0)*|(0 )*1) \]\}$'
      AND EXISTS (SELECT FROM unnest(p.polroles) AS role
                  WHERE role = 0 OR pg_has_role(l.ours, role, 'USAGE')
                     OR NOT l.sees_all AND NOT pg_has_role(t.relowner, 'USAGE') AND pg_has_role(role, 'USAGE'))

    UNION ALL
    SELECT 16, format('policy atlas_sync_adds on %s', t.name), CASE WHEN p.oid IS NULL THEN 'missing' ELSE 'altered' END,
           CASE WHEN p.oid IS NULL THEN '' ELSE format('DROP POLICY atlas_sync_adds ON %s; ', t.name) END
               || format('CREATE POLICY atlas_sync_adds ON %s FOR INSERT TO service_role WITH CHECK (true)', t.name), false
    FROM tables t LEFT JOIN pg_policy p ON p.polrelid = t.oid AND p.polname = 'atlas_sync_adds'
    WHERE t.rel = 'usage_logs' AND t.oid IS NOT NULL
      AND (p.polpermissive AND p.polcmd = 'a' AND p.polroles = ARRAY(SELECT oid FROM pg_roles WHERE rolname = 'service_role')
           AND p.polwithcheck::text ~ '^\{CONST :consttype 16 .*:constisnull false .*\[ (1( 0)*|(0 )*1) \]\}$') IS NOT TRUE

    UNION ALL
    SELECT 18, 'USAGE on schema sync', 'missing for service_role', 'GRANT USAGE ON SCHEMA sync TO service_role', false
    FROM schemas n JOIN pg_roles r ON r.rolname = 'service_role'
    WHERE n.nsp = 'sync' AND n.oid IS NOT NULL AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE')

    UNION ALL
    SELECT 21, format('INSERT on column %s.%I', a.tab, a.col), 'missing for service_role',
           format('GRANT INSERT (%I) ON %s TO service_role', a.col, a.tab), false
    FROM attributes a JOIN pg_roles r ON r.rolname = 'service_role'
    WHERE a.nsp = 'sync' AND a.rel = 'usage_logs' AND a.attnum IS NOT NULL AND a.col NOT IN ('id', 'batch')
      AND NOT has_column_privilege(r.oid, a.relid, a.attnum, 'INSERT')

    UNION ALL
    SELECT 18, format('USAGE on schema %I', n.nsp), 'missing for atlas_sync',
           format('GRANT USAGE ON SCHEMA %I TO atlas_sync', n.nsp), true
    FROM schemas n CROSS JOIN login l WHERE n.oid IS NOT NULL AND has_schema_privilege(l.ours, n.oid, 'USAGE') IS NOT TRUE

    UNION ALL
    SELECT 19, 'USAGE on schema sync', 'granted to PUBLIC', 'REVOKE ALL ON SCHEMA sync FROM PUBLIC', false
    FROM schemas n WHERE n.nsp = 'sync' AND EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0)

    UNION ALL
    SELECT 20, format('SELECT on %s', t.name), 'missing for atlas_sync',
           format('GRANT SELECT ON %s TO atlas_sync', t.name), t.serves
    FROM tables t CROSS JOIN login l
    WHERE t.reads AND t.oid IS NOT NULL AND has_table_privilege(l.ours, t.oid, 'SELECT') IS NOT TRUE

    UNION ALL
    -- Whether there is to be one, sync.meta says, which this login may be unable to read.
    SELECT 22, 'publication atlas_sync', 'altered',
           'ALTER PUBLICATION atlas_sync SET (publish = ''insert, update'', publish_via_partition_root = true)', false
    FROM pg_publication p JOIN tables t ON (t.nsp, t.rel) = ('sync', 'log')
    JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = t.oid
    WHERE p.pubname = 'atlas_sync'
      AND NOT (p.pubinsert AND p.pubupdate AND NOT p.pubdelete AND NOT p.pubtruncate AND p.pubviaroot)

    UNION ALL
    SELECT 22, 'event trigger atlas_sync_withdraw',
           'disabled, so that UPDATEs of a table whose key is changed may fail: let a superuser run '
               || 'ALTER EVENT TRIGGER atlas_sync_withdraw ENABLE', NULL, false
    FROM pg_event_trigger WHERE evtname = 'atlas_sync_withdraw' AND evtenabled NOT IN ('O', 'A')

    UNION ALL
    SELECT 21, format('SELECT on column %s.%I', a.tab, a.col), 'missing for atlas_sync',
           format('GRANT SELECT (%I) ON %s TO atlas_sync', a.col, a.tab), true
    FROM attributes a CROSS JOIN login l
    WHERE a.declared AND a.attnum IS NOT NULL
      AND has_column_privilege(l.ours, a.relid, a.attnum, 'SELECT') IS NOT TRUE
)
SELECT what, problem, mend, serving FROM wrong ORDER BY turn, what, problem

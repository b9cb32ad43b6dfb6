-- Finds the other faults, in the form of inventory.sql: bodies of functions and views, keys and indexes, and the rights of
-- end users. It locks the app's tables as a reader does, so a running server does not run it.
-- $1 names of functions, $2 the md5 of each body
WITH functions AS (
    SELECT name, says FROM unnest($1::text[], $2::text[]) AS f (name, says)
), keys (nsp, rel, columns, is_unique, statement) AS (
    VALUES ('sync', 'meta', '{only_one}'::text[], true, 'ALTER TABLE sync.meta ADD PRIMARY KEY (only_one)'),
           ('sync', 'feeds', '{user_id}', true, 'ALTER TABLE sync.feeds ADD PRIMARY KEY (user_id)'),
           ('sync', 'log', '{user_id,seq,n}', true, 'ALTER TABLE sync.log ADD PRIMARY KEY (user_id, seq, n)'),
           ('sync', 'nobody', '{place}', true, 'ALTER TABLE sync.nobody ADD PRIMARY KEY (place)'),
           ('sync', 'histories', '{n}', true, 'ALTER TABLE sync.histories ADD PRIMARY KEY (n)'),
           ('sync', 'histories', '{epoch}', true, 'ALTER TABLE sync.histories ADD UNIQUE (epoch)'),
           ('sync', 'clients', '{user_id,client_id}', true, 'ALTER TABLE sync.clients ADD PRIMARY KEY (user_id, client_id)'),
           ('sync', 'servers', '{server}', true, 'ALTER TABLE sync.servers ADD PRIMARY KEY (server)'),
           ('sync', 'devices', '{user_id,client_id}', true, 'ALTER TABLE sync.devices ADD PRIMARY KEY (user_id, client_id)'),
           ('sync', 'response_cache', '{query_hash,tier}', true,
            'ALTER TABLE sync.response_cache ADD PRIMARY KEY (query_hash, tier)'),
           ('sync', 'response_cache', '{expires_at}', false, 'CREATE INDEX ON sync.response_cache (expires_at)'),
           ('sync', 'response_leases', '{query_hash,tier}', true,
            'ALTER TABLE sync.response_leases ADD PRIMARY KEY (query_hash, tier)'),
           ('sync', 'response_flushes', '{process}', true, 'ALTER TABLE sync.response_flushes ADD PRIMARY KEY (process)'),
           ('sync', 'declaration', '{only_one}', true, 'ALTER TABLE sync.declaration ADD PRIMARY KEY (only_one)'),
           ('sync', 'kinds', '{nsp,rel}', true, 'ALTER TABLE sync.kinds ADD PRIMARY KEY (nsp, rel)'),
           ('sync', 'migrations', '{version_num}', true, 'ALTER TABLE sync.migrations ADD PRIMARY KEY (version_num)'),
           ('sync', 'usage_logs', '{batch}', false, 'CREATE INDEX usage_logs_batch ON sync.usage_logs (batch)'),
           ('sync', 'usage_batches', '{batch}', true, 'ALTER TABLE sync.usage_batches ADD PRIMARY KEY (batch)'),
           ('sync', 'usage_keys', '{key}', true, 'ALTER TABLE sync.usage_keys ADD PRIMARY KEY (key)'),
           ('sync', 'usage_keys', '{written_at}', false, 'CREATE INDEX usage_keys_by_age ON sync.usage_keys (written_at)'),
           ('sync', 'usage_state', '{only_one}', true, 'ALTER TABLE sync.usage_state ADD PRIMARY KEY (only_one)'),
           ('sync', 'daily_usage', '{id}', true, 'ALTER TABLE sync.daily_usage ADD PRIMARY KEY (id)'),
           ('sync', 'daily_usage', '{user_id,date}', true, 'ALTER TABLE sync.daily_usage ADD UNIQUE (user_id, date)'),
           ('sync', 'daily_costs', '{user_id,date,tier,model}', true,
            'ALTER TABLE sync.daily_costs ADD PRIMARY KEY (user_id, date, tier, model)'),
           ('sync', 'daily_costs', '{date,tier}', false, 'CREATE INDEX daily_costs_by_day ON sync.daily_costs (date, tier)'),
           ('sync', 'daily_conversations', '{date,user_id,conversation_id}', true,
            'ALTER TABLE sync.daily_conversations ADD PRIMARY KEY (date, user_id, conversation_id)'),
           ('sync', 'model_prices', '{model,valid_from}', true,
            'ALTER TABLE sync.model_prices ADD PRIMARY KEY (model, valid_from)'),
           ('sync', 'streams', '{id}', true, 'ALTER TABLE sync.streams ADD PRIMARY KEY (id)'),
           ('sync', 'streams', '{kind,row_key,name}', true, 'ALTER TABLE sync.streams ADD UNIQUE (kind, row_key, name)'),
           ('sync', 'streams', '{touched_at}', false,
            'CREATE INDEX streams_unsettled ON sync.streams (touched_at) WHERE settled_at IS NULL'),
           ('sync', 'streams', '{user_id}', false,
            'CREATE INDEX streams_open ON sync.streams (user_id) WHERE state = ''open'''),
           ('sync', 'streams', '{settled_at}', false,
            'CREATE INDEX streams_settled ON sync.streams (settled_at) WHERE settled_at IS NOT NULL'),
           ('sync', 'stream_text', '{slot,stream,at}', true, 'ALTER TABLE sync.stream_text ADD PRIMARY KEY (slot, stream, at)'),
           ('public', 'messages', '{id,created_at}', true, 'ALTER TABLE public.messages ADD PRIMARY KEY (id, created_at)'),
           ('public', 'messages_archive', '{id,created_at}', true,
            'ALTER TABLE public.messages_archive ADD PRIMARY KEY (id, created_at)'),
           ('public', 'conversations', '{user_id,updated_at,id}', false,
            'CREATE INDEX CONCURRENTLY conversations_newest ON public.conversations (user_id, updated_at DESC, id DESC)'),
           ('public', 'messages', '{conversation_id,created_at,id}', false,
            'CREATE INDEX messages_newest ON public.messages (conversation_id, created_at DESC, id DESC)'),
           ('public', 'messages_archive', '{conversation_id,created_at,id}', false,
            'CREATE INDEX ON public.messages_archive (conversation_id, created_at DESC, id DESC)')
), reached (rel, policy, command, uses, checks, rights) AS (
    -- The conditions as Postgres prints them.
    SELECT v.rel, v.policy, v.command, u.uses, CASE v.command WHEN '*' THEN u.uses END, v.rights
    FROM (VALUES ('profiles', 'atlas_own_profile', 'r', '(id = ( SELECT auth.uid() AS uid))', 'SELECT'),
                 ('conversations', 'atlas_own_conversations', '*', '(user_id = ( SELECT auth.uid() AS uid))',
                  'SELECT, INSERT, UPDATE, DELETE'),
                 ('messages', 'atlas_own_messages', '*', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
                 ('messages_archive', 'atlas_own_messages', '*', NULL, 'SELECT, UPDATE, DELETE')
         ) AS v (rel, policy, command, uses, rights)
    CROSS JOIN LATERAL (SELECT coalesce(v.uses, format(
        '(EXISTS ( SELECT FROM public.conversations c WHERE ((c.id = %s.conversation_id) '
        'AND (c.user_id = ( SELECT auth.uid() AS uid)))))',
        v.rel))) AS u (uses)
), tables AS MATERIALIZED (
    SELECT c.oid, n.nspname AS nsp, c.relname AS rel, c.relacl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('sync', 'public') AND c.relkind IN ('r', 'p', 'v')
), wrong (turn, what, problem, mend, serving) AS (
    SELECT 1, format('function sync.%I', f.name), 'altered', NULL,
           f.name LIKE 'record%' OR f.name IN ('seq_at', 'user_of', 'identity', 'epoch', 'standing', 'begin_history', 'hidden')
    FROM functions f JOIN pg_namespace n ON n.nspname = 'sync'
    JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = f.name AND md5(p.prosrc) <> f.says

    UNION ALL
    SELECT 2, format('view sync.%I', t.rel), 'altered', NULL, true
    FROM tables t JOIN sync.kinds k ON t.rel = 'all_' || k.rel
    CROSS JOIN LATERAL (SELECT string_agg(quote_ident(c), ',' ORDER BY i) FROM unnest(k.columns) WITH ORDINALITY AS u (c, i)) AS of (c)
    WHERE t.nsp = 'sync'
      AND regexp_replace(pg_get_viewdef(t.oid), format('\m(%s|%s)\.|\s|;', k.rel, k.rel || '_archive'), '', 'g')
          <> format('SELECT%1$sFROM%2$I.%3$IUNIONALLSELECT%1$sFROM%2$I.%4$I', of.c, k.nsp, k.rel, k.rel || '_archive')

    UNION ALL
    SELECT 3, format('%s (%s) of %I.%I', CASE WHEN w.is_unique THEN 'key' ELSE 'index' END, array_to_string(w.columns, ', '),
                     w.nsp, w.rel),
           format('missing: run %s', w.statement), NULL, false
    FROM keys w JOIN tables t ON t.nsp = w.nsp AND t.rel = w.rel
    WHERE (w.nsp = 'sync' OR EXISTS (SELECT FROM sync.kinds k WHERE k.parted AND k.nsp = w.nsp)) AND NOT EXISTS (
        SELECT FROM pg_index x CROSS JOIN LATERAL (
            SELECT ARRAY(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY AS k (attnum, i)
                         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum ORDER BY k.i)) AS has (columns)
        WHERE x.indrelid = t.oid AND x.indisvalid AND (x.indpred IS NULL) = (w.statement NOT LIKE '% WHERE %')
          AND CASE WHEN w.is_unique THEN x.indisunique AND has.columns @> w.columns AND has.columns <@ w.columns
                   ELSE has.columns = w.columns END)

    UNION ALL
    SELECT 4, 'function auth.uid', 'missing',
           'CREATE SCHEMA IF NOT EXISTS auth; CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE '
           'SET search_path = pg_catalog, pg_temp AS $uid$ '
           'SELECT (nullif(pg_catalog.current_setting(''request.jwt.claims'', true), '''')::jsonb ->> ''sub'')::uuid $uid$; '
           'GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role', false
    WHERE EXISTS (SELECT FROM sync.kinds k WHERE k.secured)
      AND NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                      WHERE n.nspname = 'auth' AND p.proname = 'uid' AND p.pronargs = 0)

    UNION ALL
    SELECT 5, format('policy %I on public.%I', w.policy, w.rel), CASE WHEN p.oid IS NULL THEN 'missing' ELSE 'altered' END,
           CASE WHEN p.oid IS NULL THEN '' ELSE format('DROP POLICY %I ON public.%I; ', w.policy, w.rel) END
               || format('CREATE POLICY %I ON public.%I FOR %s TO authenticated USING (%s)', w.policy, w.rel,
                         CASE w.command WHEN 'r' THEN 'SELECT' ELSE 'ALL' END, w.uses)
               || CASE WHEN w.checks IS NULL THEN '' ELSE format(' WITH CHECK (%s)', w.checks) END, false
    FROM reached w JOIN tables t ON t.nsp = 'public' AND t.rel = w.rel
    JOIN sync.kinds k ON k.nsp = t.nsp AND k.rel = t.rel AND k.secured
    LEFT JOIN pg_policy p ON p.polrelid = t.oid AND p.polname = w.policy
    WHERE (p.polpermissive AND p.polcmd = w.command
           AND p.polroles = ARRAY(SELECT oid FROM pg_roles WHERE rolname = 'authenticated')
           AND regexp_replace(pg_get_expr(p.polqual, t.oid), '\s+', ' ', 'g') = w.uses
           AND regexp_replace(pg_get_expr(p.polwithcheck, t.oid), '\s+', ' ', 'g') IS NOT DISTINCT FROM w.checks) IS NOT TRUE

    -- A right that the app has revoked is not granted again: a table whose rights were changed has an ACL, and one that was
    -- restored without rights has none.
    UNION ALL
    SELECT 6, format('%s on public.%I', w.rights, w.rel), 'missing for authenticated',
           format('GRANT %s ON public.%I TO authenticated', w.rights, w.rel), false
    FROM reached w JOIN tables t ON t.nsp = 'public' AND t.rel = w.rel AND t.relacl IS NULL
    JOIN sync.kinds k ON k.nsp = t.nsp AND k.rel = t.rel AND k.secured

    UNION ALL
    SELECT 7, 'USAGE on schema auth', 'missing for authenticated',
           'GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role', false
    FROM pg_namespace n
    WHERE n.nspname = 'auth' AND n.nspacl IS NULL AND EXISTS (SELECT FROM sync.kinds k WHERE k.secured)
)
SELECT what, problem, mend, serving FROM wrong ORDER BY turn, what

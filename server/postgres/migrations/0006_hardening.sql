-- A secret channel for doorbells, row level security on our own tables, and a safe search path for auth.uid().

-- Postgres searches a temporary schema that search_path does not name first, for types and relations: a temporary domain
-- named `uuid` would run its CHECK with the rights of the function's owner. So every function of ours names pg_temp, last.
-- Where Supabase is absent, auth.uid() is the one of 0001. Triggers of the app call it while a push is applied.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_proc p
               WHERE p.oid = pg_catalog.to_regprocedure('auth.uid()') AND p.proconfig = ARRAY['search_path=""'])
       -- Made by an earlier version of ours; in another database the function is the app's.
       AND EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polname = 'atlas_own_profile') THEN
        ALTER FUNCTION auth.uid() SET search_path = pg_catalog, pg_temp;
    END IF;
END
$$;

-- The channel of the doorbells. Any role may LISTEN and NOTIFY, but only members of atlas_sync can read this name.
ALTER TABLE sync.meta ADD COLUMN channel text NOT NULL
    DEFAULT 'atlas_sync_' || pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', '');

-- Row level security holds even for roles that may read every table. A partition that was the app's own table keeps the
-- setting it had.
DO $$
DECLARE
    ours pg_catalog.regclass;
BEGIN
    FOR ours IN SELECT t::pg_catalog.regclass
                FROM pg_catalog.unnest(ARRAY['sync.meta', 'sync.feeds', 'sync.log', 'sync.clients', 'sync.servers',
                                             'sync.devices', 'sync.migrations']) AS t LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', ours);
        EXECUTE pg_catalog.format('CREATE POLICY atlas_sync_reads ON %s FOR SELECT TO atlas_sync USING (true)', ours);
    END LOOP;
    FOR ours IN SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = 'sync.log'::pg_catalog.regclass
                UNION ALL SELECT 'sync.original'::pg_catalog.regclass LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', ours);
    END LOOP;
END
$$;

-- Earlier versions of 0005 replaced the table's name in the policies that it copied, and did so within string constants too. Policies that are
-- still as 0005 made them are corrected.
DO $$
DECLARE
    theirs record;
    -- A string constant, a quoted name, or the text between them.
    token constant text := '''(?:[^'']|'''')*''|"(?:[^"]|"")*"|[^''"]+';
    tab constant text := '\mmessages\.';
    archived constant text := 'messages_archive.';
BEGIN
    IF pg_catalog.to_regclass('public.messages_archive') IS NULL THEN
        RETURN;
    END IF;
    FOR theirs IN
        WITH said AS (
            SELECT p.polname, e.kind, pg_catalog.pg_get_expr(e.tree, p.polrelid) AS here,
                   pg_catalog.pg_get_expr(CASE e.kind WHEN 'USING' THEN a.polqual ELSE a.polwithcheck END, a.polrelid) AS there
            FROM pg_catalog.pg_policy p
            JOIN pg_catalog.pg_policy a ON a.polname = p.polname AND a.polrelid = 'public.messages_archive'::pg_catalog.regclass
            CROSS JOIN LATERAL (VALUES ('USING', p.polqual), ('WITH CHECK', p.polwithcheck)) AS e (kind, tree)
            WHERE p.polrelid = 'public.messages'::pg_catalog.regclass AND p.polname NOT IN ('atlas_own_messages', 'atlas_sync_reads')
        )
        SELECT s.polname, s.kind, s.there, r.rightly
        FROM said s
        CROSS JOIN LATERAL (
            SELECT pg_catalog.string_agg(CASE WHEN t.part[1] ~ '^[''"]' THEN t.part[1]
                                              ELSE pg_catalog.regexp_replace(t.part[1], tab, archived, 'g') END,
                                         '' ORDER BY t.i) AS rightly
            FROM pg_catalog.regexp_matches(s.here, token, 'g') WITH ORDINALITY AS t (part, i)
        ) r
        WHERE s.there = pg_catalog.regexp_replace(s.here, tab, archived, 'g') AND s.there <> r.rightly
    LOOP
        EXECUTE pg_catalog.format('ALTER POLICY %I ON public.messages_archive %s (%s)', theirs.polname, theirs.kind, theirs.rightly);
    END LOOP;
END
$$;

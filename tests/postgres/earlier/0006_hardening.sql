-- Functions that nobody can hijack, tables that row level security keeps closed, and pushes that fail by themselves.

-- A temporary schema that search_path does not name is searched first for types and relations: a temporary domain named
-- `uuid` would run its CHECK with the rights of the function's owner. So every function names it, last.
DO $$
DECLARE
    ours pg_catalog.regprocedure;
BEGIN
    FOR ours IN SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'sync'::pg_catalog.regnamespace LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', ours);
    END LOOP;
    -- Where Supabase is absent, this one is of 0001; triggers of the app call it while a push is applied.
    IF EXISTS (SELECT FROM pg_catalog.pg_proc p
               WHERE p.oid = pg_catalog.to_regprocedure('auth.uid()') AND p.proconfig = ARRAY['search_path=""']) THEN
        ALTER FUNCTION auth.uid() SET search_path = pg_catalog, pg_temp;
    END IF;
END
$$;

-- The channel of the doorbells. Any role may LISTEN and NOTIFY; only members of atlas_sync can know where.
ALTER TABLE sync.meta ADD COLUMN channel text NOT NULL
    DEFAULT 'atlas_sync_' || pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', '');

-- Roles that may read everything obey row level security. (A table that was the app's own keeps what it had.)
ALTER VIEW sync.all_messages SET (security_invoker = true);
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

-- As in 0005, for the log's partitions too.
CREATE OR REPLACE FUNCTION sync.close_partition(of text, part text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE sync.%I ENABLE ROW LEVEL SECURITY', part);
    IF of <> 'log' THEN
        EXECUTE format('CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON sync.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', part);
    END IF;
END
$$;

-- As in 0002, with the channel of sync.meta.
CREATE OR REPLACE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid, row_at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this pg_catalog.xid8 := pg_catalog.pg_current_xact_id();
    at_seq pg_catalog.int8;
    before_seq pg_catalog.int8;
    doorbell pg_catalog.text;
BEGIN
    SELECT f.seq, f.prev INTO at_seq, before_seq FROM sync.feeds f WHERE f.user_id = owner AND f.xid = this;
    IF NOT FOUND THEN
        INSERT INTO sync.feeds AS f (user_id, seq, prev, xid)
        VALUES (owner, sync.seq_at(pg_catalog.clock_timestamp()), 0, this)
        ON CONFLICT (user_id) DO UPDATE
            SET prev = f.seq, seq = greatest(f.seq + 1, excluded.seq), xid = excluded.xid
        RETURNING f.seq, f.prev, (SELECT m.channel FROM sync.meta m) INTO at_seq, before_seq, doorbell;
        PERFORM pg_catalog.pg_notify(doorbell, owner || ' ' || at_seq);
    END IF;
    INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id, row_at)
    VALUES (owner, at_seq, before_seq, kind, op, row_id, row_at);
END
$$;

-- Policies copied by 0005: what a string constant says was rewritten with the columns' names. Those that are still as
-- 0005 made them are made anew.
DO $$
DECLARE
    theirs record;
    -- A string constant, a quoted name, or what is between them.
    token constant text := '''(?:[^'']|'''')*''|"(?:[^"]|"")*"|[^''"]+';
    tab constant text := '\mmessages\.';
    archived constant text := 'messages_archive.';
BEGIN
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

-- Installations and devices of one user that are remembered; the ones heard of longest ago are forgotten first.
CREATE FUNCTION sync.most_devices() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$ SELECT 200 $$;

-- As in 0004, with a bound on the devices of one user.
CREATE OR REPLACE FUNCTION sync.note(of_server text, users uuid[], client_ids uuid[], sessions text[], seqs bigint[],
                                     states text[], close_codes int[], connected_ats timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newcomer pg_catalog.uuid;
BEGIN
    -- Nobody waits for the disk because of this: what a crash loses is noted again.
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO sync.servers (server, seen_at) VALUES (of_server, now())
    ON CONFLICT (server) DO UPDATE SET seen_at = excluded.seen_at;
    FOR newcomer IN WITH noted AS (
        INSERT INTO sync.devices AS d (user_id, client_id, session, server, seq, state, close_code, connected_at, noted_at)
        SELECT u.user_id, u.client_id, u.session, of_server, u.seq, u.state, u.close_code, u.connected_at, now()
        FROM unnest(users, client_ids, sessions, seqs, states, close_codes, connected_ats)
             AS u (user_id, client_id, session, seq, state, close_code, connected_at)
        ORDER BY u.user_id, u.client_id
        ON CONFLICT (user_id, client_id) DO UPDATE
            SET session = excluded.session, server = excluded.server, seq = coalesce(excluded.seq, d.seq),
                state = excluded.state, close_code = excluded.close_code, noted_at = excluded.noted_at,
                connected_at = excluded.connected_at
            WHERE excluded.connected_at >= d.connected_at
        RETURNING d.user_id, d.xmax = 0 AS is_new
    )
    SELECT DISTINCT n.user_id FROM noted n WHERE n.is_new LOOP
        DELETE FROM sync.devices d WHERE d.user_id = newcomer AND d.client_id = ANY (ARRAY(
            SELECT o.client_id FROM sync.devices o WHERE o.user_id = newcomer
            ORDER BY o.noted_at DESC, o.client_id OFFSET sync.most_devices()));
    END LOOP;
END
$$;


DROP FUNCTION sync.push(uuid[], uuid[], text[], boolean[], bigint[], int[], text[], uuid[], uuid[], text[], text[],
                        timestamptz[], timestamptz[], boolean);
DROP FUNCTION sync.apply(uuid, text, uuid, uuid, text, text, timestamptz, timestamptz);

-- A conversation of more messages than this is deleted in portions of so many: each takes some 0.15 s.
CREATE FUNCTION sync.portion() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$ SELECT 4000 $$;

-- The mutations of a group of pushes, as sync.push has them. For each push the number that is consumed last after it, and
-- {n: code} of the rejected ones, which have changed nothing. Whose row it is is part of each statement that writes: what
-- belongs to somebody else is not found, as if it were not there. `skipped`: nothing of that push is to be applied.
--
-- Triggers of the app run in here, and may count on `public`. So every call here is qualified and every operator has an
-- exact match in pg_catalog, which nothing in `public` can come before. The path is set once a group: once a mutation
-- would cost a sixth of its time.
CREATE FUNCTION sync.apply(users uuid[], firsts bigint[], counts int[], befores bigint[], skipped boolean[],
                           kinds text[], row_ids uuid[], parents uuid[], roles text[], bodies text[],
                           ats timestamptz[], row_ats timestamptz[], writable text[],
                           OUT afters bigint[], INOUT rejecteds jsonb[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    behind pg_catalog.int8 := 0;           -- mutations of the pushes before this one
    owner pg_catalog.uuid;
    row_id pg_catalog.uuid;
    parent pg_catalog.uuid;
    body pg_catalog.text;
    at pg_catalog.timestamptz;
    row_at pg_catalog.timestamptz;
    code pg_catalog.text;
    owns pg_catalog.bool;
    many pg_catalog.int8;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, public, pg_temp', true);
    afters := befores;
    FOR p IN 1 .. pg_catalog.cardinality(users) LOOP
        IF skipped[p] THEN
            behind := behind + counts[p];
            CONTINUE;
        END IF;
        owner := users[p];
        PERFORM pg_catalog.set_config('request.jwt.claims',
                                      pg_catalog.concat('{"sub": "', owner, '", "role": "authenticated"}'), true);
        FOR m IN behind + befores[p] + 2 - firsts[p] .. behind + counts[p] LOOP
            row_id := row_ids[m];
            parent := parents[m];
            body := bodies[m];
            at := ats[m];
            row_at := row_ats[m];
            code := NULL;
            CASE kinds[m]
            WHEN '+m' THEN
                -- No month is archived before it is over.
                IF at < pg_catalog.now() - '27 days'::pg_catalog.interval THEN
                    SELECT coalesce(c.user_id = owner, false) INTO owns
                    FROM public.messages_archive m JOIN public.conversations c ON c.id = m.conversation_id
                    WHERE m.id = row_id AND m.created_at = at;
                    IF FOUND AND NOT owns THEN
                        PERFORM FROM public.conversations c WHERE c.id = parent AND c.user_id = owner;
                        code := CASE WHEN FOUND THEN 'bad_id' ELSE 'unknown_conversation' END;
                    END IF;
                ELSE
                    owns := NULL;
                END IF;
                IF owns IS NULL THEN
                    INSERT INTO public.messages (id, conversation_id, role, content, created_at, updated_at)
                    SELECT row_id, c.id, roles[m], body, at, at
                    FROM public.conversations c WHERE c.id = parent AND c.user_id = owner
                    ON CONFLICT (id, created_at) DO NOTHING;
                    IF FOUND THEN
                        UPDATE public.conversations c SET updated_at = at
                        WHERE c.id = parent AND c.user_id = owner AND c.updated_at < at;
                    ELSE
                        PERFORM FROM public.conversations c WHERE c.id = parent AND c.user_id = owner;
                        IF NOT FOUND THEN
                            code := 'unknown_conversation';
                        ELSE
                            PERFORM FROM public.messages m JOIN public.conversations c ON c.id = m.conversation_id
                            WHERE m.id = row_id AND m.created_at = at AND c.user_id = owner;
                            IF NOT FOUND THEN
                                code := 'bad_id';
                            END IF;
                        END IF;
                    END IF;
                END IF;
            WHEN '~m' THEN
                UPDATE public.messages m SET content = body, updated_at = greatest(m.updated_at, at)
                FROM public.conversations c
                WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner
                  AND m.role::pg_catalog.text = ANY (writable);
                IF NOT FOUND THEN
                    UPDATE public.messages_archive m SET content = body, updated_at = greatest(m.updated_at, at)
                    FROM public.conversations c
                    WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner
                      AND m.role::pg_catalog.text = ANY (writable);
                END IF;
                IF NOT FOUND THEN
                    PERFORM FROM sync.all_messages m JOIN public.conversations c ON c.id = m.conversation_id
                    WHERE m.id = row_id AND m.created_at = row_at AND c.user_id = owner;
                    code := CASE WHEN FOUND THEN 'bad_role' ELSE 'unknown_message' END;
                END IF;
            WHEN '-m' THEN
                DELETE FROM public.messages m USING public.conversations c
                WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
                -- In both, should SQL of the app have inserted an archived message anew.
                IF row_at < pg_catalog.now() - '27 days'::pg_catalog.interval THEN
                    DELETE FROM public.messages_archive m USING public.conversations c
                    WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
                END IF;
            WHEN '+c' THEN
                INSERT INTO public.conversations (id, user_id, title, created_at, updated_at)
                VALUES (row_id, owner, body, at, at)
                ON CONFLICT (id) DO NOTHING;
                IF NOT FOUND THEN
                    PERFORM FROM public.conversations c WHERE c.id = row_id AND c.user_id = owner;
                    IF NOT FOUND THEN
                        code := 'bad_id';
                    END IF;
                END IF;
            WHEN '~c' THEN
                UPDATE public.conversations c SET title = body, updated_at = greatest(c.updated_at, at)
                WHERE c.id = row_id AND c.user_id = owner;
                IF NOT FOUND THEN
                    code := 'unknown_conversation';
                END IF;
            WHEN '-c' THEN
                SELECT pg_catalog.count(*) INTO many
                FROM (SELECT FROM public.conversations c JOIN sync.all_messages m ON m.conversation_id = c.id
                      WHERE c.id = row_id AND c.user_id = owner LIMIT sync.portion() + 1) AS first;
                IF many > sync.portion() THEN
                    DELETE FROM public.messages m USING (
                        SELECT o.id, o.created_at FROM public.messages o WHERE o.conversation_id = row_id
                        ORDER BY o.created_at, o.id LIMIT sync.portion()
                    ) old
                    WHERE m.id = old.id AND m.created_at = old.created_at;
                    IF NOT FOUND THEN
                        DELETE FROM public.messages_archive m USING (
                            SELECT o.id, o.created_at FROM public.messages_archive o WHERE o.conversation_id = row_id
                            ORDER BY o.created_at, o.id LIMIT sync.portion()
                        ) old
                        WHERE m.id = old.id AND m.created_at = old.created_at;
                    END IF;
                    -- The push ends here and is to be pushed again. Else a trigger of the app keeps the messages.
                    EXIT WHEN FOUND;
                END IF;
                DELETE FROM public.conversations c WHERE c.id = row_id AND c.user_id = owner;
            WHEN '!' THEN
                code := body;  -- the server's rules refused it; it only consumes its number
            END CASE;
            afters[p] := afters[p] + 1;
            IF code IS NOT NULL THEN
                rejecteds[p] := rejecteds[p] || pg_catalog.jsonb_build_object(afters[p], code);
            END IF;
        END LOOP;
        behind := behind + counts[p];
    END LOOP;
END
$$;

-- Has the deferred triggers run now, the app's as apply has its others.
CREATE FUNCTION sync.run_deferred_triggers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, public, pg_temp', true);
    SET CONSTRAINTS ALL IMMEDIATE;
END
$$;

-- A group of pushes, one of a client_id and sorted by both ids, so that two groups cannot deadlock; `counts` says how many
-- of the mutations belong to each. For each push, in order: the number that was consumed last before it and after it,
-- the feed's seq, {n: code} of the rejected ones, and why nothing was applied: `replaced`, another connection has taken
-- the client_id, or `local_only`, the user does not pay. `takes`: this connection has not pushed before, and takes it.
-- A push that ends before its last mutation, at a large conversation, is to be pushed again.
--
-- One failing statement fails the group; the server then pushes each of it by itself.
--
-- It runs as its owner, so that the server's login needs no right to write anything but through here. auth.uid() says to
-- triggers of the app who writes; to deferred ones only in a push that is by itself, since they run for the whole group.
CREATE FUNCTION sync.push(users uuid[], client_ids uuid[], sessions text[], takes boolean[], firsts bigint[],
                          counts int[], kinds text[], row_ids uuid[], parents uuid[], roles text[], bodies text[],
                          ats timestamptz[], row_ats timestamptz[], writable text[])
RETURNS TABLE (before bigint, after bigint, seq bigint, rejected jsonb, refusal text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    befores pg_catalog.int8[];
    afters pg_catalog.int8[];
    rejecteds pg_catalog.jsonb[];
    refusals pg_catalog.text[];
    skipped pg_catalog.bool[];
BEGIN
    -- Locks every client's row until the commit: two groups with pushes of one client take turns.
    WITH locked AS (
        INSERT INTO sync.clients AS c (user_id, client_id, last_mutation, session, pushed_at)
        SELECT u.user_id, u.client_id, 0, u.session, now()
        FROM unnest(users, client_ids, sessions) WITH ORDINALITY AS u (user_id, client_id, session, p) ORDER BY u.p
        ON CONFLICT (user_id, client_id) DO UPDATE SET pushed_at = excluded.pushed_at
        RETURNING c.*
    ), told AS (
        SELECT u.p, u.first, l.last_mutation,
               CASE WHEN u.first > l.last_mutation OR l.rejected = '{}' THEN '{}'
                    ELSE (SELECT coalesce(jsonb_object_agg(r.key, r.value), '{}')
                          FROM jsonb_each(l.rejected) r WHERE r.key::pg_catalog.int8 >= u.first) END AS rejected,
               CASE WHEN coalesce(pr.subscription_tier NOT IN ('core', 'studio'), true) THEN 'local_only'
                    WHEN l.session <> u.session AND NOT u.takes THEN 'replaced' END AS refusal
        FROM unnest(users, client_ids, sessions, takes, firsts)
             WITH ORDINALITY AS u (user_id, client_id, session, takes, first, p)
        JOIN locked l USING (user_id, client_id)
        LEFT JOIN public.profiles pr ON pr.id = u.user_id
    )
    SELECT array_agg(t.last_mutation ORDER BY t.p), array_agg(t.rejected ORDER BY t.p),
           array_agg(t.refusal ORDER BY t.p),
           array_agg(t.refusal IS NOT NULL OR t.first > t.last_mutation + 1 ORDER BY t.p)
    INTO befores, rejecteds, refusals, skipped
    FROM told t;

    SELECT a.afters, a.rejecteds INTO afters, rejecteds
    FROM sync.apply(users, firsts, counts, befores, skipped, kinds, row_ids, parents, roles, bodies, ats, row_ats,
                    writable, rejecteds) a;

    UPDATE sync.clients c SET last_mutation = u.after, session = u.session,
                              rejected = CASE WHEN u.after > u.before THEN u.rejected ELSE c.rejected END
    FROM unnest(users, client_ids, sessions, takes, befores, afters, rejecteds, refusals)
         AS u (user_id, client_id, session, takes, before, after, rejected, refusal)
    WHERE c.user_id = u.user_id AND c.client_id = u.client_id AND u.refusal IS NULL AND (u.after > u.before OR u.takes);
    FOR p IN 1 .. cardinality(users) LOOP
        CONTINUE WHEN befores[p] > 0;
        IF afters[p] = 0 THEN
            -- Nothing is remembered of an installation that nothing came from,
            DELETE FROM sync.clients c
            WHERE c.user_id = users[p] AND c.client_id = client_ids[p] AND c.last_mutation = 0;
        ELSE
            -- and not of any number of them. Who pushes at this moment is none of the oldest.
            DELETE FROM sync.clients c WHERE c.user_id = users[p] AND c.client_id = ANY (ARRAY(
                SELECT k.client_id FROM sync.clients k WHERE k.user_id = users[p] AND k.client_id = ANY (ARRAY(
                    SELECT o.client_id FROM sync.clients o WHERE o.user_id = users[p]
                    ORDER BY o.pushed_at DESC, o.client_id OFFSET sync.most_devices()))
                FOR UPDATE SKIP LOCKED));
        END IF;
    END LOOP;
    IF cardinality(users) > 1 THEN
        PERFORM set_config('request.jwt.claims', '', true);
    END IF;
    -- The feeds move now instead of at commit, so that their seqs can be told.
    PERFORM sync.run_deferred_triggers();
    PERFORM set_config('request.jwt.claims', '', true);
    RETURN QUERY
        SELECT u.before, u.after, coalesce(f.seq, 0), u.rejected, u.refusal
        FROM unnest(users, befores, afters, rejecteds, refusals) WITH ORDINALITY
             AS u (user_id, before, after, rejected, refusal, p)
        LEFT JOIN sync.feeds f ON f.user_id = u.user_id
        ORDER BY u.p;
END
$$;

REVOKE ALL ON FUNCTION sync.apply, sync.push, sync.run_deferred_triggers, sync.portion, sync.most_devices FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.push TO atlas_sync;

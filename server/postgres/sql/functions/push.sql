-- Pushes: the function through which the server writes.

-- Earlier versions of these two took other arguments.
DROP FUNCTION IF EXISTS
    sync.push(uuid[], uuid[], text[], boolean[], bigint[], int[], text[], uuid[], uuid[], text[], text[], timestamptz[],
              timestamptz[], boolean),
    sync.push(uuid[], uuid[], text[], boolean[], bigint[], int[], text[], uuid[], uuid[], text[], text[], timestamptz[],
              timestamptz[], text[]),
    sync.push(uuid[], uuid[], text[], boolean[], bigint[], int[], text[], uuid[], uuid[], text[], text[], timestamptz[],
              timestamptz[], text[], bigint[], bigint[], bigint[]),
    sync.apply(uuid, text, uuid, uuid, text, text, timestamptz, timestamptz),
    sync.apply(uuid[], bigint[], int[], bigint[], boolean[], text[], uuid[], uuid[], text[], text[], timestamptz[],
               timestamptz[], text[], jsonb[]);

-- A row with more rows below it than this is deleted in portions of that many, which take some 0.15 s each.
CREATE OR REPLACE FUNCTION sync.portion() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$ SELECT 4000 $$;

-- Applies the mutations of a group of pushes; the arguments are those of sync.push. `skipped`: nothing of that push is to be
-- applied. Returns for each push the number consumed last, and {n: code} of the rejected mutations, which have changed
-- nothing. `migrate` makes sync.write from the declaration.
--
-- Triggers of the app run in here and may expect `public` in the search path. So every call here and there is qualified, and
-- every operator has an exact match in pg_catalog, which nothing in `public` can precede. The path is set once per group:
-- setting it once per mutation would take a sixth of a mutation's time.
CREATE OR REPLACE FUNCTION sync.apply(users uuid[], firsts bigint[], counts int[], befores bigint[], skipped boolean[],
                           tags text[], ops text[], keys text[], seconds text[], patches text[], ats timestamptz[],
                           OUT afters bigint[], INOUT rejecteds jsonb[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    behind pg_catalog.int8 := 0;           -- mutations of the pushes before this one
    owner pg_catalog.uuid;
    code pg_catalog.text;
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
            code := CASE ops[m]
                    WHEN '!' THEN patches[m]  -- rejected by the server's rules: it only consumes its number
                    WHEN '0' THEN NULL        -- applied under another number
                    ELSE sync.write(tags[m], ops[m], owner, ARRAY[keys[m], seconds[m]], patches[m]::pg_catalog.jsonb, ats[m])
                    END;
            -- The push ends here, and the device pushes the rest again.
            EXIT WHEN code = 'more';
            afters[p] := afters[p] + 1;
            IF code IS NOT NULL THEN
                rejecteds[p] := rejecteds[p] || pg_catalog.jsonb_build_object(afters[p], code);
            END IF;
        END LOOP;
        behind := behind + counts[p];
    END LOOP;
END
$$;

-- Runs the deferred triggers now. Those of the app find the same search path as their other triggers in sync.apply.
CREATE OR REPLACE FUNCTION sync.run_deferred_triggers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, public, pg_temp', true);
    SET CONSTRAINTS ALL IMMEDIATE;
END
$$;

-- Applies a group of pushes.
--
-- The pushes have different client_ids and are sorted by user_id and client_id, so that two groups cannot deadlock. `counts`
-- says how many of the mutations belong to each push. `helds`: the lowest number whose mutation the device still holds.
-- `digests`: of each mutation, 0 where there is none. `takes`: this connection claims the client_id, because it has not pushed
-- before. `tags`, `ops`, `keys`, `seconds`, `patches`, `ats`: of each mutation the kind's tag, what it does (see sync.write; !: a
-- rejection, whose code is the patch), both halves of the key, and the columns as JSON. `declared`: the declaration by which the
-- server checked them.
--
-- Returns one row per push, in order: the number consumed last before it and after it, the feed's seq, {n: code} of the
-- rejected mutations, and why nothing was applied (`refusal`): `replaced`, another connection has the client_id;
-- `local_only`, the user does not sync; `gap`, its numbers were consumed by other mutations. The connection with the largest
-- generation has the client_id; where generations do not decide, the one that claims it. A push that ends before its last
-- mutation, at a row with many rows below it, is to be pushed again.
--
-- One failing statement fails the whole group. The server then applies each push by itself.
--
-- The function runs as its owner, so the server's login needs no other right to write. auth.uid() tells triggers of the app
-- who writes; deferred triggers only in a group of one push, because they run once for the whole group.
CREATE OR REPLACE FUNCTION sync.push(users uuid[], client_ids uuid[], sessions text[], takes boolean[], firsts bigint[],
                          counts int[], tags text[], ops text[], keys text[], seconds text[], patches text[],
                          ats timestamptz[], generations bigint[], helds bigint[], digests bigint[], declared text)
RETURNS TABLE (before bigint, after bigint, seq bigint, rejected jsonb, refusal text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    befores pg_catalog.int8[];
    afters pg_catalog.int8[];
    rejecteds pg_catalog.jsonb[];
    refusals pg_catalog.text[];
    skipped pg_catalog.bool[];
    renumbered pg_catalog.bool;            -- whether some device has sent its mutations under other numbers before
    agains pg_catalog.bool[];              -- pushes with mutations that were applied under lower numbers
    behind pg_catalog.int8;                -- mutations of the pushes before one
    known pg_catalog.int8[];
    hit pg_catalog.int4;
    number pg_catalog.int8;
BEGIN
    IF sync.hidden() IS NOT NULL THEN
        PERFORM sync.refuse_hidden(sync.hidden());
    END IF;
    IF declared IS DISTINCT FROM (SELECT d.digest FROM sync.declaration d) THEN
        RAISE EXCEPTION 'The declaration has changed.' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Locks the row of each client until the commit: two groups with pushes of one client run one after the other.
    WITH locked AS (
        INSERT INTO sync.clients AS c (user_id, client_id, last_mutation, session, pushed_at)
        SELECT u.user_id, u.client_id, 0, u.session, now()
        FROM unnest(users, client_ids, sessions) WITH ORDINALITY AS u (user_id, client_id, session, p) ORDER BY u.p
        ON CONFLICT (user_id, client_id) DO UPDATE SET pushed_at = excluded.pushed_at
        RETURNING c.*
    ), counted AS (
        SELECT u.*, (sum(u.count) OVER (ORDER BY u.p) - u.count)::int4 AS behind
        FROM unnest(users, client_ids, sessions, takes, firsts, counts, generations, helds)
             WITH ORDINALITY AS u (user_id, client_id, session, takes, first, count, generation, held, p)
    ), told AS (
        SELECT u.p, u.first, l.last_mutation, l.former IS NOT NULL AS renumbered,
               -- Deletions do not count: a row may be deleted, created again and deleted again.
               CASE WHEN u.takes AND u.held IS NOT NULL AND u.first = l.last_mutation + 1 AND l.digests <> '{}'
                    THEN l.digests && ARRAY(
                        SELECT d.digest FROM unnest(push.digests[u.behind + 1 : u.behind + u.count],
                                                    ops[u.behind + 1 : u.behind + u.count]) AS d (digest, op)
                        WHERE d.digest <> 0 AND d.op <> '-')
                    ELSE false END AS again,
               CASE WHEN u.first > l.last_mutation OR l.rejected = '{}' THEN '{}'
                    ELSE (SELECT coalesce(jsonb_object_agg(r.key, r.value), '{}')
                          FROM jsonb_each(l.rejected) r WHERE r.key::pg_catalog.int8 >= u.first) END AS rejected,
               CASE WHEN g.admitted IS NOT TRUE THEN 'local_only'
                    WHEN u.generation < l.generation THEN 'replaced'
                    WHEN u.generation > coalesce(l.generation, 0) THEN NULL
                    WHEN l.session <> u.session AND NOT u.takes THEN 'replaced' END AS refusal,
               u.held IS NOT NULL AND u.first <= l.last_mutation
                   AND sync.differ(l.last_mutation, l.digests, u.first,
                                   push.digests[u.behind + 1 : u.behind + u.count]) AS differs
        FROM counted u
        JOIN locked l USING (user_id, client_id)
        LEFT JOIN LATERAL sync.admitted(u.user_id) AS g (admitted) ON true
    )
    SELECT array_agg(t.last_mutation ORDER BY t.p), array_agg(t.rejected ORDER BY t.p),
           array_agg(coalesce(t.refusal, CASE WHEN t.differs THEN 'gap' END) ORDER BY t.p),
           array_agg(t.refusal IS NOT NULL OR t.differs OR t.first > t.last_mutation + 1 ORDER BY t.p),
           bool_or(t.renumbered OR t.again), array_agg(t.again AND t.refusal IS NULL ORDER BY t.p)
    INTO befores, rejecteds, refusals, skipped, renumbered, agains
    FROM told t;

    IF renumbered THEN
        -- The device's numbers are from another history: they follow on here by chance, or after a gap.
        UPDATE sync.clients c
        SET former = sync.recognised(c.former, c.digests), former_until = c.last_mutation + 10000
        FROM unnest(users, client_ids, agains) AS u (user_id, client_id, again)
        WHERE c.user_id = u.user_id AND c.client_id = u.client_id AND u.again;
        behind := 0;
        FOR p IN 1 .. cardinality(users) LOOP
            SELECT c.former INTO known FROM sync.clients c WHERE c.user_id = users[p] AND c.client_id = client_ids[p];
            FOR m IN behind + befores[p] + 2 - firsts[p] .. behind + counts[p] LOOP
                EXIT WHEN skipped[p];
                hit := array_position(known, nullif(digests[m], 0));
                IF hit > 0 THEN
                    -- It only consumes its number.
                    ops[m] := '0';
                    known[hit] := 0;
                END IF;
            END LOOP;
            behind := behind + counts[p];
        END LOOP;
    END IF;

    SELECT a.afters, a.rejecteds INTO afters, rejecteds
    FROM sync.apply(users, firsts, counts, befores, skipped, tags, ops, keys, seconds, patches, ats, rejecteds) a;

    behind := 0;
    FOR p IN 1 .. cardinality(users) LOOP
        IF renumbered AND NOT skipped[p] THEN
            -- Only mutations up to where the push ended: the device pushes the others again.
            SELECT c.former INTO known FROM sync.clients c WHERE c.user_id = users[p] AND c.client_id = client_ids[p];
            FOR m IN behind + befores[p] + 2 - firsts[p] .. behind + afters[p] - firsts[p] + 1 LOOP
                IF ops[m] = '0' THEN
                    known[array_position(known, digests[m])] := 0;
                END IF;
            END LOOP;
            UPDATE sync.clients c SET former = CASE WHEN helds[p] <= c.former_until THEN known END
            WHERE c.user_id = users[p] AND c.client_id = client_ids[p] AND c.former IS NOT NULL
              AND (c.former <> known OR helds[p] <= c.former_until IS NOT TRUE);
        END IF;
        IF afters[p] > befores[p] AND rejecteds[p] <> '{}' THEN
            FOR number IN SELECT k.key::pg_catalog.int8 FROM jsonb_object_keys(rejecteds[p]) AS k (key) LOOP
                CONTINUE WHEN number <= befores[p];
                hit := behind + number - firsts[p] + 1;
                digests[hit] := -digests[hit];
            END LOOP;
        END IF;
        behind := behind + counts[p];
    END LOOP;

    UPDATE sync.clients c SET last_mutation = u.after, session = u.session,
                              generation = greatest(u.generation, c.generation),
                              rejected = CASE WHEN u.after > u.before THEN u.rejected ELSE c.rejected END,
                              digests = CASE WHEN u.first > u.before + 1 THEN c.digests
                                             ELSE sync.keep(u.before, u.after, c.digests, u.first, u.held,
                                                            push.digests[u.behind + 1 : u.behind + u.count]) END
    FROM (SELECT a.*, (sum(a.count) OVER (ORDER BY a.p) - a.count)::int4 AS behind
          FROM unnest(users, client_ids, sessions, takes, befores, afters, rejecteds, refusals, firsts, counts, generations,
                      helds)
               WITH ORDINALITY AS a (user_id, client_id, session, takes, before, after, rejected, refusal, first, count,
                                     generation, held, p)) u
    WHERE c.user_id = u.user_id AND c.client_id = u.client_id AND u.refusal IS NULL AND (u.after > u.before OR u.takes);
    IF 'gap' = ANY (refusals) THEN
        -- The device will send the mutations that it holds under numbers above all consumed ones. Those that are applied
        -- are remembered, so that they are not applied again. Rejected ones may be tried again.
        UPDATE sync.clients c
        SET digests = '{}', former_until = c.last_mutation + 10000, session = u.session,
            generation = greatest(u.generation, c.generation),
            former = sync.recognised(c.former, c.digests)
        FROM unnest(users, client_ids, sessions, refusals, generations)
             AS u (user_id, client_id, session, refusal, generation)
        WHERE c.user_id = u.user_id AND c.client_id = u.client_id AND u.refusal = 'gap';
    END IF;
    FOR p IN 1 .. cardinality(users) LOOP
        CONTINUE WHEN befores[p] > 0;
        IF afters[p] = 0 THEN
            -- Keep no row for an installation that has pushed nothing.
            DELETE FROM sync.clients c
            WHERE c.user_id = users[p] AND c.client_id = client_ids[p] AND c.last_mutation = 0;
        ELSE
            -- Forget the oldest installations beyond the limit. One that pushes at this moment is not among them.
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
    -- The feeds move now instead of at commit, so that their seqs can be returned.
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

REVOKE ALL ON FUNCTION sync.portion, sync.apply, sync.run_deferred_triggers, sync.push FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.push TO atlas_sync;

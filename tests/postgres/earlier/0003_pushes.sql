-- Pushes: how far each installation of the app has been applied, and the one function through which the server writes.

CREATE TABLE sync.clients (
    user_id       uuid NOT NULL,
    client_id     uuid NOT NULL,
    last_mutation bigint NOT NULL,
    session       text NOT NULL,                 -- the connection that has this client_id
    rejected      jsonb NOT NULL DEFAULT '{}',   -- {n: code}, of the numbers whose results the device may not have yet
    pushed_at     timestamptz NOT NULL,
    PRIMARY KEY (user_id, client_id)
) WITH (fillfactor = 50);

-- One mutation. NULL if it is applied, else the code of its rejection, and then it has changed nothing. Whose row it is
-- is part of each statement that writes: what belongs to somebody else is not found, as if it were not there.
CREATE FUNCTION sync.apply(owner uuid, kind text, row_id uuid, parent uuid, role text, body text,
                           at timestamptz, row_at timestamptz) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    CASE kind
    WHEN '+m' THEN
        INSERT INTO public.messages (id, conversation_id, role, content, created_at, updated_at)
        SELECT row_id, c.id, apply.role, body, at, at
        FROM public.conversations c WHERE c.id = parent AND c.user_id = owner
        ON CONFLICT (id, created_at) DO NOTHING;
        IF FOUND THEN
            UPDATE public.conversations c SET updated_at = at
            WHERE c.id = parent AND c.user_id = owner AND c.updated_at < at;
            RETURN NULL;
        END IF;
        PERFORM FROM public.conversations c WHERE c.id = parent AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'unknown_conversation';
        END IF;
        PERFORM FROM public.messages m JOIN public.conversations c ON c.id = m.conversation_id
        WHERE m.id = row_id AND m.created_at = at AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'bad_id';
        END IF;
    WHEN '~m' THEN
        UPDATE public.messages m SET content = body, updated_at = greatest(m.updated_at, at)
        FROM public.conversations c
        WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'unknown_message';
        END IF;
    WHEN '-m' THEN
        DELETE FROM public.messages m USING public.conversations c
        WHERE m.id = row_id AND m.created_at = row_at AND c.id = m.conversation_id AND c.user_id = owner;
    WHEN '+c' THEN
        INSERT INTO public.conversations (id, user_id, title, created_at, updated_at)
        VALUES (row_id, owner, body, at, at)
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM public.conversations c WHERE c.id = row_id AND c.user_id = owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        END IF;
    WHEN '~c' THEN
        UPDATE public.conversations c SET title = body, updated_at = greatest(c.updated_at, at)
        WHERE c.id = row_id AND c.user_id = owner;
        IF NOT FOUND THEN
            RETURN 'unknown_conversation';
        END IF;
    WHEN '-c' THEN
        DELETE FROM public.conversations c WHERE c.id = row_id AND c.user_id = owner;
    WHEN '!' THEN
        RETURN body;  -- the server's rules refused it; it only consumes its number
    END CASE;
    RETURN NULL;
END
$$;

-- A group of pushes, one of a client_id and sorted by user, so that two groups cannot deadlock; `counts` says how many
-- of the mutations belong to each. For each push, in order: the number that was consumed last before it and after it,
-- the feed's seq, {n: code} of the rejected ones, and why nothing was applied: `replaced`, another connection has taken
-- the client_id, or `local_only`, the user does not pay. `takes`: this connection has not pushed before, and takes it.
--
-- One failing statement fails the group, which is then tried again `careful`: each mutation in a subtransaction with
-- its own constraint triggers. One that the database refuses is rejected. One that fails by the database's own state
-- ends its push there, unconsumed. `trouble` is the SQLSTATE and the constraint, for the log.
--
-- It runs as its owner, so that the server's login needs no right to write anything but through here. Triggers of the
-- app run in here too: hence `public` in the search path, behind pg_catalog, and auth.uid() says who writes (but not to
-- deferred triggers, which run for the whole group).
CREATE FUNCTION sync.push(users uuid[], client_ids uuid[], sessions text[], takes boolean[], firsts bigint[],
                          counts int[], kinds text[], row_ids uuid[], parents uuid[], roles text[], bodies text[],
                          ats timestamptz[], row_ats timestamptz[], careful boolean)
RETURNS TABLE (before bigint, after bigint, seq bigint, rejected jsonb, refusal text, trouble text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    befores bigint[];
    holders text[];
    known jsonb[];
    paid boolean[];
    afters bigint[] := '{}';
    rejecteds jsonb[] := '{}';
    refusals text[] := '{}';
    troubles text[] := '{}';
    behind int := 0;           -- mutations of the pushes before this one
    claims text;
    code text;
    state text;
    broken text;
BEGIN
    -- Locks every client's row until the commit: two groups with pushes of one client take turns.
    WITH locked AS (
        INSERT INTO sync.clients AS c (user_id, client_id, last_mutation, session, pushed_at)
        SELECT u.user_id, u.client_id, 0, u.session, now()
        FROM unnest(users, client_ids, sessions) WITH ORDINALITY AS u (user_id, client_id, session, p) ORDER BY u.p
        ON CONFLICT (user_id, client_id) DO UPDATE SET pushed_at = excluded.pushed_at
        RETURNING c.*
    )
    SELECT array_agg(l.last_mutation ORDER BY u.p), array_agg(l.session ORDER BY u.p),
           array_agg(l.rejected ORDER BY u.p),
           array_agg(coalesce(pr.subscription_tier IN ('core', 'studio'), false) ORDER BY u.p)
    INTO befores, holders, known, paid
    FROM unnest(users, client_ids) WITH ORDINALITY AS u (user_id, client_id, p)
    JOIN locked l USING (user_id, client_id)
    LEFT JOIN public.profiles pr ON pr.id = u.user_id;

    FOR p IN 1 .. cardinality(users) LOOP
        before := befores[p];
        after := before;
        rejected := '{}';
        trouble := NULL;
        IF firsts[p] <= before THEN
            SELECT coalesce(jsonb_object_agg(key, value), '{}') INTO rejected
            FROM jsonb_each(known[p]) WHERE key::bigint >= firsts[p];
        END IF;
        refusal := CASE WHEN NOT paid[p] THEN 'local_only'
                        WHEN holders[p] <> sessions[p] AND NOT takes[p] THEN 'replaced' END;
        IF firsts[p] <= before + 1 AND refusal IS NULL THEN
            claims := format('{"sub": "%s", "role": "authenticated"}', users[p]);
            claims := set_config('request.jwt.claims', claims, true);
            FOR m IN behind + before + 2 - firsts[p] .. behind + counts[p] LOOP
                IF NOT careful THEN
                    code := sync.apply(users[p], kinds[m], row_ids[m], parents[m], roles[m], bodies[m],
                                       ats[m], row_ats[m]);
                ELSE
                    BEGIN
                        code := sync.apply(users[p], kinds[m], row_ids[m], parents[m], roles[m], bodies[m],
                                           ats[m], row_ats[m]);
                        SET CONSTRAINTS ALL IMMEDIATE;
                        SET CONSTRAINTS ALL DEFERRED;
                    EXCEPTION WHEN OTHERS THEN
                        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, broken = CONSTRAINT_NAME;
                        trouble := rtrim(state || ' ' || broken);
                        -- Of these classes nothing is the mutation's fault: locks, resources, a shutdown, a trigger
                        -- that names what is not there. Whatever else was raised, by a constraint or the app, is.
                        EXIT WHEN left(state, 2) IN ('08', '0A', '25', '40', '53', '55', '57', '58', 'F0', 'XX')
                            OR left(state, 2) = '42' AND state <> '42501';
                        code := 'refused';
                    END;
                END IF;
                after := after + 1;
                IF code IS NOT NULL THEN
                    rejected := rejected || jsonb_build_object(after, code);
                END IF;
            END LOOP;
        END IF;
        behind := behind + counts[p];
        afters[p] := after;
        rejecteds[p] := rejected;
        refusals[p] := refusal;
        troubles[p] := trouble;
    END LOOP;

    UPDATE sync.clients c SET last_mutation = u.after, session = u.session,
                              rejected = CASE WHEN u.after > u.before THEN u.rejected ELSE c.rejected END
    FROM unnest(users, client_ids, sessions, takes, befores, afters, rejecteds, refusals)
         AS u (user_id, client_id, session, takes, before, after, rejected, refusal)
    WHERE c.user_id = u.user_id AND c.client_id = u.client_id AND u.refusal IS NULL AND (u.after > u.before OR u.takes);
    claims := set_config('request.jwt.claims', '', true);
    -- The feeds move now instead of at commit, so that their seqs can be told.
    SET CONSTRAINTS ALL IMMEDIATE;
    RETURN QUERY
        SELECT u.before, u.after, coalesce(f.seq, 0), u.rejected, u.refusal, u.trouble
        FROM unnest(users, befores, afters, rejecteds, refusals, troubles) WITH ORDINALITY
             AS u (user_id, before, after, rejected, refusal, trouble, p)
        LEFT JOIN sync.feeds f ON f.user_id = u.user_id
        ORDER BY u.p;
END
$$;

REVOKE ALL ON FUNCTION sync.apply, sync.push FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.push TO atlas_sync;

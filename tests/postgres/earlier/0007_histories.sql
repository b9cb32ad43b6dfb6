-- Histories with an order, transactions with a name, and numbers that mean one mutation in every history.

-- A transaction's name within one feed: `mark`. Its seq is no name: a database that lost its tail gives the same one to
-- another transaction where its clock is behind the feed. And its xid is none, for a cluster counts its own: the row of
-- a dump that was restored into a younger cluster names a transaction that is yet to come. NULL: before this migration.
ALTER TABLE sync.feeds ADD COLUMN mark bigint, ADD COLUMN prev_mark bigint, DROP COLUMN xid;
ALTER TABLE sync.log ADD COLUMN mark bigint, ADD COLUMN prev_mark bigint;

-- The histories that this database has gone through, this one last. Where two databases share a past, the rows that both
-- have tell which of them is the newer one.
CREATE TABLE sync.histories (
    n         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    epoch     text NOT NULL UNIQUE,
    identity  text NOT NULL,              -- what sync.identity() said
    system    bigint NOT NULL,            -- of the cluster that began it
    timeline  int NOT NULL,
    began_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
ALTER TABLE sync.histories ENABLE ROW LEVEL SECURITY;
CREATE POLICY atlas_sync_reads ON sync.histories FOR SELECT TO atlas_sync USING (true);
GRANT SELECT ON sync.histories TO atlas_sync;

-- What a history rests on. It differs where a database cannot contain all that its devices know, or may not have recorded
-- or shown all that happened:
--  - a promoted replica and a restored backup have another timeline, a dump in another cluster another system identifier;
--  - a dump in the same cluster has other oids, or the first row of sync.histories, which nobody updates, was written by
--    another transaction;
--  - a trigger that was disabled and enabled again, or a policy that was made anew, was written by another transaction.
CREATE FUNCTION sync.identity(OUT identity text, OUT system bigint, OUT timeline int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(convert_to(concat_ws(' ', m.history, h.xmin, h.tableoid, d.oid, c.system_identifier, t.line,
        (SELECT string_agg(concat_ws(':', g.oid, g.xmin), ',' ORDER BY g.oid)
         FROM pg_trigger g
         WHERE g.tgname IN ('atlas_sync_record', 'atlas_sync_record_update') AND g.tgrelid = ANY (a.tables)),
        (SELECT string_agg(concat_ws(':', p.oid, p.xmin), ',' ORDER BY p.oid)
         FROM pg_policy p WHERE p.polname = 'atlas_sync_reads' AND p.polrelid = ANY (a.tables))), 'UTF8')), 'hex'),
        c.system_identifier, ('x' || t.line)::bit(32)::int
    FROM sync.meta m, (SELECT xmin, tableoid FROM sync.histories ORDER BY n LIMIT 1) h, pg_database d,
         pg_control_system() c, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS t (line),
         (SELECT ARRAY[to_regclass('public.profiles'), to_regclass('public.conversations'), to_regclass('public.messages'),
                       to_regclass('public.messages_archive')]::oid[] AS tables) a
    WHERE d.datname = current_database()
$$;

-- Cursors of before this migration stay good.
INSERT INTO sync.histories (epoch, identity, system, timeline)
SELECT sync.epoch(), '', c.system_identifier, 0 FROM pg_catalog.pg_control_system() c;
UPDATE sync.histories h SET identity = i.identity, timeline = i.timeline FROM sync.identity() i;

-- Names this history: 16 random hexadecimal digits, because two replicas that were promoted have the same timeline. It
-- notes a new one if the last that was noted rests on something else.
CREATE OR REPLACE FUNCTION sync.epoch() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here record;
    newest record;
BEGIN
    SELECT * INTO here FROM sync.identity();
    SELECT h.epoch, h.identity INTO newest FROM sync.histories h ORDER BY h.n DESC LIMIT 1;
    IF newest.identity IS DISTINCT FROM here.identity THEN
        -- Several servers find it at the same time.
        LOCK TABLE sync.histories IN SHARE ROW EXCLUSIVE MODE;
        SELECT h.epoch, h.identity INTO newest FROM sync.histories h ORDER BY h.n DESC LIMIT 1;
        IF newest.identity IS DISTINCT FROM here.identity THEN
            INSERT INTO sync.histories (epoch, identity, system, timeline)
            VALUES (substr(replace(gen_random_uuid()::text, '-', ''), 17), here.identity, here.system, here.timeline)
            RETURNING epoch, identity INTO newest;
        END IF;
    END IF;
    RETURN newest.epoch;
END
$$;

-- Which history this is, the names of those before it, oldest first, and what orders two that both went on from one.
-- `started`: when this Postgres was started. What it had not written to disk may be gone since.
CREATE FUNCTION sync.standing(OUT epoch text, OUT lineage text[], OUT system bigint, OUT timeline int,
                              OUT began_at timestamptz, OUT started timestamptz, OUT now timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    epoch := sync.epoch();
    SELECT h.system, h.timeline, h.began_at INTO system, timeline, began_at
    FROM sync.histories h WHERE h.epoch = standing.epoch;
    SELECT array_agg(h.epoch ORDER BY h.n) INTO lineage
    FROM (SELECT * FROM sync.histories ORDER BY n DESC LIMIT 1000) h WHERE h.epoch <> standing.epoch;
    started := pg_postmaster_start_time();
    now := clock_timestamp();
END
$$;

-- Begins a history, unless `before` is no longer the newest one: every device starts over. For a server that cannot see,
-- or a database that did not record, what happened; and for an operator who went back to an earlier database.
CREATE FUNCTION sync.begin_history(before text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sync.meta FOR UPDATE;
    IF sync.epoch() = before THEN
        UPDATE sync.meta SET history = gen_random_uuid();
    END IF;
    RETURN sync.epoch();
END
$$;

-- The tables of which row level security hides rows from functions that run as this function's owner. A change that they
-- cannot see they cannot record.
CREATE FUNCTION sync.hidden() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(t, ', ')
    FROM unnest(ARRAY['public.profiles', 'public.conversations', 'public.messages', 'public.messages_archive']) AS t
    WHERE row_security_active(t)
$$;

CREATE FUNCTION sync.refuse_hidden(tables text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'Row level security hides rows of % from %, so changes cannot be recorded for devices.',
                    tables, current_user
          USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('Run ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or ALTER ROLE %I BYPASSRLS.', current_user);
END
$$;

-- As in 0006, with the transaction's mark: what no other transaction, of whatever history, has in common with this one.
CREATE OR REPLACE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid, row_at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this pg_catalog.int8 := (pg_catalog.hashint8extended(pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
                                                         sync.seq_at(pg_catalog.now())) & 9223372036854775806) | 1;
    at_seq pg_catalog.int8;
    before_seq pg_catalog.int8;
    before_mark pg_catalog.int8;
    doorbell pg_catalog.text;
BEGIN
    SELECT f.seq, f.prev, f.prev_mark INTO at_seq, before_seq, before_mark
    FROM sync.feeds f WHERE f.user_id = owner AND f.mark = this;
    IF NOT FOUND THEN
        INSERT INTO sync.feeds AS f (user_id, seq, prev, mark)
        VALUES (owner, sync.seq_at(pg_catalog.clock_timestamp()), 0, this)
        ON CONFLICT (user_id) DO UPDATE
            SET prev = f.seq, prev_mark = f.mark, seq = greatest(f.seq + 1, excluded.seq), mark = excluded.mark
        RETURNING f.seq, f.prev, f.prev_mark, (SELECT m.channel FROM sync.meta m)
        INTO at_seq, before_seq, before_mark, doorbell;
        PERFORM pg_catalog.pg_notify(doorbell, owner || ' ' || at_seq);
    END IF;
    INSERT INTO sync.log (user_id, seq, prev, mark, prev_mark, kind, op, row_id, row_at)
    VALUES (owner, at_seq, before_seq, this, before_mark, kind, op, row_id, row_at);
END
$$;

-- As in 0002; a conversation that is not found may also be hidden.
CREATE OR REPLACE FUNCTION sync.message_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner pg_catalog.uuid;
    former_owner pg_catalog.uuid;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT c.user_id INTO owner FROM public.conversations c WHERE c.id = NEW.conversation_id;
    END IF;
    -- Out of one conversation and into another are two facts: should the new one be deleted before a device reads of
    -- it, in this very transaction even, that removes nothing where the message is known in the old one.
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE'
                            AND (OLD.id, OLD.conversation_id) IS DISTINCT FROM (NEW.id, NEW.conversation_id)) THEN
        SELECT c.user_id INTO former_owner FROM public.conversations c WHERE c.id = OLD.conversation_id;
        IF owner <> former_owner THEN
            RAISE EXCEPTION 'A message cannot move to another user''s conversation.';
        END IF;
        IF coalesce(former_owner, owner) IS NOT NULL THEN
            PERFORM sync.record(coalesce(former_owner, owner), 'm', 'd', OLD.id, OLD.created_at);
        END IF;
    END IF;
    IF owner IS NOT NULL THEN
        PERFORM sync.record(owner, 'm', 'u', NEW.id, NEW.created_at);
    ELSIF former_owner IS NULL AND pg_catalog.row_security_active('public.conversations') THEN
        PERFORM sync.refuse_hidden('public.conversations');
    END IF;
    RETURN NULL;
END
$$;

-- As in 0005; the messages may also be hidden.
CREATE OR REPLACE FUNCTION sync.conversation_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.user_id <> NEW.user_id OR OLD.id <> NEW.id) THEN
        RAISE EXCEPTION 'A conversation''s owner and id cannot change. Copy it for the other user, delete this one.';
    END IF;
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND NEW.user_id IS NULL) THEN
        IF OLD.user_id IS NOT NULL THEN
            PERFORM sync.record(OLD.user_id, 'c', 'd', OLD.id, NULL);
        END IF;
    ELSIF NEW.user_id IS NOT NULL THEN
        PERFORM sync.record(NEW.user_id, 'c', 'u', NEW.id, NULL);
        IF TG_OP = 'UPDATE' AND OLD.user_id IS NULL THEN
            IF sync.hidden() IS NOT NULL THEN
                PERFORM sync.refuse_hidden(sync.hidden());
            END IF;
            PERFORM sync.record(NEW.user_id, 'm', 'u', m.id, m.created_at)
            FROM sync.all_messages m WHERE m.conversation_id = NEW.id;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- `digests`: of the mutations with the numbers up to last_mutation, the last element being that one's; negative if it was
-- rejected, 0 if it was none. NULL in the first: those up to there are not known. NULL: nothing was pushed since this
-- migration. `former`: digests of mutations that are applied and whose device gives them other numbers now, up to
-- `former_until`.
ALTER TABLE sync.clients ADD COLUMN generation bigint, ADD COLUMN digests bigint[], ADD COLUMN former bigint[],
    ADD COLUMN former_until bigint;

-- Whether mutations of a push were consumed as others before; `pushed` has 0 for what the device does not say. It was never
-- to push again those of which no digest is kept, unless nobody knew that it holds them.
CREATE FUNCTION sync.differ(last_mutation bigint, digests bigint[], first bigint, pushed bigint[])
RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    many int8 := cardinality(pushed);
    begins int8 := last_mutation - cardinality(digests);      -- `digests` are of the numbers above this one
    beside int8[] := digests[greatest(first - begins, 1)::int : greatest(first - begins + many - 1, 0)::int];
BEGIN
    IF digests IS NULL OR many = 0 OR first > last_mutation THEN
        RETURN false;
    END IF;
    RETURN first <= begins AND (digests = '{}' OR digests[1] IS NOT NULL)
        OR EXISTS (SELECT FROM unnest(pushed[greatest(begins - first + 2, 1)::int:], beside) AS p (digest, kept)
                   WHERE p.digest <> 0 AND p.digest <> abs(p.kept));
END
$$;

-- The digests to keep after a push: of what the device holds, and of a few before it, because a device that lost power may
-- have lost what it stored last. Of what was consumed before, they stay: a device that no longer holds it pushes nothing.
-- Of a device that does not say what it holds none is known.
CREATE FUNCTION sync.keep(before bigint, after bigint, digests bigint[], first bigint, held bigint, pushed bigint[])
RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lowest int8 := greatest(coalesce(held - 16, after), after - 9999);
    known int8[] := coalesce(digests, CASE WHEN before > 0 THEN ARRAY[NULL::int8] ELSE '{}' END)
                    || pushed[(before - first + 2)::int : (after - first + 1)::int];
    excess int4 := cardinality(known) - (after - lowest + 1);
BEGIN
    IF excess > 0 THEN
        known := known[excess + 1:];
        IF held IS NULL OR held - 16 < lowest THEN
            known[1] := NULL;
        END IF;
    END IF;
    RETURN known;
END
$$;

-- What is to be recognised under other numbers: what `former` has, and what is applied of `digests`.
CREATE FUNCTION sync.recognised(former bigint[], digests bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(k.digest ORDER BY k.i), '{}')
    FROM (SELECT digest, i FROM unnest(former || digests) WITH ORDINALITY AS u (digest, i)
          WHERE digest > 0 ORDER BY i DESC LIMIT 10000) k
$$;

DROP FUNCTION sync.push(uuid[], uuid[], text[], boolean[], bigint[], int[], text[], uuid[], uuid[], text[], text[],
                        timestamptz[], timestamptz[], text[]);

-- A group of pushes, one of a client_id and sorted by both ids, so that two groups cannot deadlock; `counts` says how many
-- of the mutations belong to each. For each push, in order: the number that was consumed last before it and after it,
-- the feed's seq, {n: code} of the rejected ones, and why nothing was applied: `replaced`, another connection has the
-- client_id; `local_only`, the user does not pay; `gap`, its numbers were consumed by other mutations. The connection of
-- the largest generation has the client_id; where generations do not tell, one that `takes` it, since it has not pushed
-- before. `held`: the lowest number of which the device holds the mutation; digests: of each mutation, 0 for none.
-- A push that ends before its last mutation, at a large conversation, is to be pushed again.
--
-- One failing statement fails the group; the server then pushes each of it by itself.
--
-- It runs as its owner, so that the server's login needs no right to write anything but through here. auth.uid() says to
-- triggers of the app who writes; to deferred ones only in a push that is by itself, since they run for the whole group.
CREATE FUNCTION sync.push(users uuid[], client_ids uuid[], sessions text[], takes boolean[], firsts bigint[],
                          counts int[], kinds text[], row_ids uuid[], parents uuid[], roles text[], bodies text[],
                          ats timestamptz[], row_ats timestamptz[], writable text[],
                          generations bigint[], helds bigint[], digests bigint[])
RETURNS TABLE (before bigint, after bigint, seq bigint, rejected jsonb, refusal text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    befores pg_catalog.int8[];
    afters pg_catalog.int8[];
    rejecteds pg_catalog.jsonb[];
    refusals pg_catalog.text[];
    skipped pg_catalog.bool[];
    renumbered pg_catalog.bool;            -- some push is of a device that had other numbers
    agains pg_catalog.bool[];              -- which pushes bring what was applied under lower numbers
    behind pg_catalog.int8;                -- mutations of the pushes before one
    known pg_catalog.int8[];
    hit pg_catalog.int4;
    number pg_catalog.int8;
BEGIN
    IF sync.hidden() IS NOT NULL THEN
        PERFORM sync.refuse_hidden(sync.hidden());
    END IF;
    -- Locks every client's row until the commit: two groups with pushes of one client take turns.
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
               -- By what has an instant: a row may be deleted, made anew and deleted again.
               CASE WHEN u.takes AND u.held IS NOT NULL AND u.first = l.last_mutation + 1 AND l.digests <> '{}'
                    THEN l.digests && ARRAY(
                        SELECT d.digest FROM unnest(push.digests[u.behind + 1 : u.behind + u.count],
                                                    kinds[u.behind + 1 : u.behind + u.count]) AS d (digest, kind)
                        WHERE d.digest <> 0 AND d.kind NOT IN ('-m', '-c'))
                    ELSE false END AS again,
               CASE WHEN u.first > l.last_mutation OR l.rejected = '{}' THEN '{}'
                    ELSE (SELECT coalesce(jsonb_object_agg(r.key, r.value), '{}')
                          FROM jsonb_each(l.rejected) r WHERE r.key::pg_catalog.int8 >= u.first) END AS rejected,
               CASE WHEN coalesce(pr.subscription_tier NOT IN ('core', 'studio'), true) THEN 'local_only'
                    WHEN u.generation < l.generation THEN 'replaced'
                    WHEN u.generation > coalesce(l.generation, 0) THEN NULL
                    WHEN l.session <> u.session AND NOT u.takes THEN 'replaced' END AS refusal,
               u.held IS NOT NULL AND u.first <= l.last_mutation
                   AND sync.differ(l.last_mutation, l.digests, u.first,
                                   push.digests[u.behind + 1 : u.behind + u.count]) AS differs
        FROM counted u
        JOIN locked l USING (user_id, client_id)
        LEFT JOIN public.profiles pr ON pr.id = u.user_id
    )
    SELECT array_agg(t.last_mutation ORDER BY t.p), array_agg(t.rejected ORDER BY t.p),
           array_agg(coalesce(t.refusal, CASE WHEN t.differs THEN 'gap' END) ORDER BY t.p),
           array_agg(t.refusal IS NOT NULL OR t.differs OR t.first > t.last_mutation + 1 ORDER BY t.p),
           bool_or(t.renumbered OR t.again), array_agg(t.again AND t.refusal IS NULL ORDER BY t.p)
    INTO befores, rejecteds, refusals, skipped, renumbered, agains
    FROM told t;

    IF renumbered THEN
        -- Numbers that another history gave, and that go on here by chance, or after a gap.
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
                    -- In its place the deletion of nothing, which consumes its number.
                    kinds[m] := '-m';
                    row_ids[m] := NULL;
                    row_ats[m] := NULL;
                    known[hit] := 0;
                END IF;
            END LOOP;
            behind := behind + counts[p];
        END LOOP;
    END IF;

    SELECT a.afters, a.rejecteds INTO afters, rejecteds
    FROM sync.apply(users, firsts, counts, befores, skipped, kinds, row_ids, parents, roles, bodies, ats, row_ats,
                    writable, rejecteds) a;

    behind := 0;
    FOR p IN 1 .. cardinality(users) LOOP
        IF renumbered AND NOT skipped[p] THEN
            -- Not what stands behind the end of a push that is to be pushed again.
            SELECT c.former INTO known FROM sync.clients c WHERE c.user_id = users[p] AND c.client_id = client_ids[p];
            FOR m IN behind + befores[p] + 2 - firsts[p] .. behind + afters[p] - firsts[p] + 1 LOOP
                IF kinds[m] = '-m' AND row_ids[m] IS NULL THEN
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
        -- What the device holds gets numbers above all that were consumed. What is applied of it is remembered, so that
        -- it is not applied again; what was rejected may be tried again.
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

REVOKE ALL ON FUNCTION sync.identity, sync.standing, sync.begin_history, sync.hidden, sync.refuse_hidden, sync.differ,
    sync.keep, sync.recognised, sync.push FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.standing, sync.begin_history, sync.hidden, sync.push TO atlas_sync;

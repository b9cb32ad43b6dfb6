-- Streams. The server reaches their tables only through these functions. `migrate` makes sync.streamed and sync.settle from the
-- declaration.
--
-- The commits of appends wait for no disk: a crash of Postgres may lose the last of them, up to three times wal_writer_delay.
-- Each writer keeps what it cannot be sure of until the end, because it learns the offset with each answer.

-- The slot for a stream that is opened now: another one every five minutes.
CREATE OR REPLACE FUNCTION sync.stream_slot() RETURNS smallint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (extract(epoch FROM clock_timestamp())::bigint / 300 % 4)::smallint
$$;

-- Where the text of a stream ends, and its state if that end is final.
CREATE OR REPLACE FUNCTION sync.stream_end(of_slot smallint, id uuid, OUT at int, OUT ended text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(l.at + length(l.text)), 0), max(l.ended)
    FROM (SELECT p.at, p.text, p.ended FROM sync.stream_text p WHERE p.slot = of_slot AND p.stream = id
          ORDER BY p.at DESC LIMIT 1) l
$$;

-- Tells the servers but `sender` that these streams have changed, and when. A notification has at most 8000 bytes.
CREATE OR REPLACE FUNCTION sync.ring_streams(sender text, ids uuid[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_notify(m.channel || '_streams', concat_ws(' ', sender, sync.seq_at(clock_timestamp()),
                                                        string_agg(replace(i.id::text, '-', ''), '')))
    FROM sync.meta m CROSS JOIN unnest(ids) WITH ORDINALITY AS i (id, n)
    GROUP BY m.channel, i.n / 200
$$;

-- Opens a stream, or finds the one that this column of this row has or had. `restart`: what there was is discarded. `problem`:
-- `unknown_row`, it is not there or not this user's; `hidden`, which of these cannot be seen; `too_many`, the user has that many
-- open streams. `text`: what there is.
CREATE OR REPLACE FUNCTION sync.open_stream(new_id uuid, owner uuid, tag text, key text[], of_name text, restart boolean, most int,
                                            server text)
RETURNS TABLE (stream uuid, fresh boolean, state text, since bigint, at int, text text, problem text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
DECLARE
    row_owner pg_catalog.uuid;
    row_held pg_catalog.text;
    row_since pg_catalog.int8;
    found_id pg_catalog.uuid;
BEGIN
    LOCK TABLE sync.streams IN ROW EXCLUSIVE MODE;  -- a declaration that comes into force now decides
    -- In one snapshot: a change of the row that it does not show has a greater seq.
    SELECT s.owner, s.held, coalesce(f.seq, 0) INTO row_owner, row_held, row_since
    FROM sync.streamed(tag, key, of_name) s LEFT JOIN sync.feeds f ON f.user_id = s.owner;
    IF row_owner IS DISTINCT FROM open_stream.owner OR row_owner IS NULL THEN
        RETURN QUERY SELECT NULL::uuid, false, NULL::text, NULL::bigint, NULL::int, NULL::text,
                            CASE WHEN sync.hidden() IS NULL THEN 'unknown_row' ELSE 'hidden' END::text;
        RETURN;
    END IF;
    IF (SELECT count(*) FROM sync.streams s
        WHERE s.user_id = open_stream.owner AND s.state = 'open'
          AND (s.kind, s.row_key, s.name) <> (tag::"char", key, of_name)) >= most
       AND (restart OR NOT EXISTS (SELECT FROM sync.streams s
                                   WHERE s.kind = tag::"char" AND s.row_key = key AND s.name = of_name)) THEN
        RETURN QUERY SELECT NULL::uuid, false, NULL::text, NULL::bigint, NULL::int, NULL::text, 'too_many'::text;
        RETURN;
    END IF;
    LOOP
        -- A stream of the row's former owner is of no use any more.
        DELETE FROM sync.streams s
        WHERE s.kind = tag::"char" AND s.row_key = key AND s.name = of_name AND s.id <> new_id
          AND (restart OR s.user_id <> open_stream.owner)
        RETURNING s.id INTO found_id;
        IF found_id IS NOT NULL THEN
            PERFORM sync.ring_streams('', ARRAY[found_id]);
        END IF;
        INSERT INTO sync.streams (id, user_id, kind, row_key, name, since, base, slot, holder)
        VALUES (new_id, open_stream.owner, tag::"char", key, of_name, row_since, md5(row_held), sync.stream_slot(), server)
        ON CONFLICT (kind, row_key, name) DO NOTHING;
        IF FOUND THEN
            PERFORM sync.ring_streams(server, ARRAY[new_id]);
            RETURN QUERY SELECT new_id, true, 'open'::text, row_since, 0, ''::text, NULL::text;
            RETURN;
        END IF;
        EXIT WHEN NOT restart OR EXISTS (SELECT FROM sync.streams s WHERE s.id = new_id);
        -- Another call has begun anew at the same moment: two writers must not share a stream.
    END LOOP;
    UPDATE sync.streams s SET touched_at = clock_timestamp()
    WHERE s.kind = tag::"char" AND s.row_key = key AND s.name = of_name AND s.state = 'open';
    RETURN QUERY
    SELECT s.id, s.id = new_id, s.state, s.since, e.at,
           (SELECT coalesce(string_agg(p.text, '' ORDER BY p.at), '') FROM sync.stream_text p
            WHERE p.slot = s.slot AND p.stream = s.id),
           CASE WHEN s.user_id <> open_stream.owner THEN 'unknown_row'::text END
    FROM sync.streams s CROSS JOIN LATERAL sync.stream_end(s.slot, s.id) e
    WHERE s.kind = tag::"char" AND s.row_key = key AND s.name = of_name;
END
$$;

-- Appends parts of texts, each to another stream, where the caller believes that the text ends. Returns the streams where it
-- does; at the others nothing was appended.
CREATE OR REPLACE FUNCTION sync.append_streams(server text, ids uuid[], ats int[], texts text[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    appended pg_catalog.uuid[];
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- Before it is read where a text is, so that it does not move until the end.
    LOCK TABLE sync.stream_text IN ROW EXCLUSIVE MODE;
    WITH added AS (
        INSERT INTO sync.stream_text AS p (slot, stream, at, text)
        SELECT s.slot, i.id, i.at, i.text FROM unnest(ids, ats, texts) AS i (id, at, text)
        -- OFFSET 0: each is looked up by its key. Otherwise the plan joins all open streams and finds the end of each, which
        -- takes three times as long with 1,000 of them.
        CROSS JOIN LATERAL (SELECT o.slot, o.state FROM sync.streams o WHERE o.id = i.id OFFSET 0) s
        LEFT JOIN LATERAL (SELECT p.at + length(p.text) AS at, p.ended FROM sync.stream_text p
                           WHERE p.slot = s.slot AND p.stream = i.id ORDER BY p.at DESC LIMIT 1) e ON true
        WHERE s.state = 'open' AND e.ended IS NULL AND i.at = coalesce(e.at, 0)
        ORDER BY i.id  -- two servers that append to the same streams cannot deadlock
        ON CONFLICT (slot, stream, at) DO NOTHING
        RETURNING p.stream
    )
    SELECT array_agg(a.stream) INTO appended FROM added a;
    IF appended IS NOT NULL THEN
        PERFORM sync.ring_streams(server, appended);
    END IF;
    RETURN QUERY SELECT unnest(appended);
END
$$;

-- What each of these streams has from the offset `ats` on; of all that are not settled if `ids` is NULL, and then no texts.
-- `at`: where the text begins; NULL: there is no more. A stream that is not there is left out.
CREATE OR REPLACE FUNCTION sync.read_streams(ids uuid[], ats int[])
RETURNS TABLE (stream uuid, user_id uuid, kind text, row_key text[], name text, since bigint, state text, settled boolean,
               stopping boolean, at int, text text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.id, s.user_id, s.kind::text, s.row_key, s.name, s.since, s.state, s.settled_at IS NOT NULL, s.stop_at IS NOT NULL,
           t.at, t.text
    FROM unnest(ids, ats) AS i (id, at)
    CROSS JOIN LATERAL (SELECT o.* FROM sync.streams o WHERE o.id = i.id OFFSET 0) s  -- as above
    LEFT JOIN LATERAL (SELECT min(p.at) AS at, string_agg(p.text, '' ORDER BY p.at) AS text FROM sync.stream_text p
                       WHERE p.slot = s.slot AND p.stream = s.id AND p.at >= i.at) t ON true
    UNION ALL
    SELECT s.id, s.user_id, s.kind::text, s.row_key, s.name, s.since, s.state, false, s.stop_at IS NOT NULL, NULL, NULL
    FROM sync.streams s WHERE ids IS NULL AND s.settled_at IS NULL
$$;

-- Ends a stream. `expected`: where its text must end then; NULL: wherever it does. Returns its state and where its text ends;
-- no row if there is no such stream. It is not ended if that is another place. `writes`: the server is to write the row at
-- once.
CREATE OR REPLACE FUNCTION sync.end_stream(server text, of_id uuid, as_state text, expected int, writes boolean)
RETURNS TABLE (state text, at int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    of_slot pg_catalog.int2;
    there pg_catalog.record;
BEGIN
    SELECT s.slot INTO of_slot FROM sync.streams s WHERE s.id = of_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    LOOP
        SELECT * INTO there FROM sync.stream_end(of_slot, of_id);
        IF there.ended IS NULL AND there.at = 0 THEN
            -- A settled stream has no text any more.
            SELECT s.state INTO there.ended FROM sync.streams s WHERE s.id = of_id AND s.state <> 'open';
        END IF;
        IF there.ended IS NOT NULL OR expected <> there.at THEN
            EXIT;
        END IF;
        INSERT INTO sync.stream_text (slot, stream, at, text, ended) VALUES (of_slot, of_id, there.at, '', as_state)
        ON CONFLICT (slot, stream, at) DO NOTHING;
        IF FOUND THEN
            there.ended := as_state;
            UPDATE sync.streams s
            SET state = as_state, ended_at = clock_timestamp(), look_at = clock_timestamp(), writes = end_stream.writes
            WHERE s.id = of_id;
            PERFORM sync.ring_streams(server, ARRAY[of_id]);
            EXIT;
        END IF;
    END LOOP;
    RETURN QUERY SELECT coalesce(there.ended, 'open'), there.at;
END
$$;

-- Somebody wants these streams to end. The process that holds one ends it, with what it has not appended yet. Returns those that
-- are open.
CREATE OR REPLACE FUNCTION sync.stop_streams(ids uuid[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    open pg_catalog.uuid[];
BEGIN
    WITH stopping AS (
        UPDATE sync.streams s SET stop_at = coalesce(s.stop_at, clock_timestamp())
        WHERE s.id = ANY (ids) AND s.state = 'open' RETURNING s.id
    )
    SELECT array_agg(s.id) INTO open FROM stopping s;
    IF open IS NOT NULL THEN
        PERFORM sync.ring_streams('', open);
    END IF;
    RETURN QUERY SELECT unnest(open);
END
$$;

-- The writers of these streams are there, and `server` appends for them.
CREATE OR REPLACE FUNCTION sync.touch_streams(server text, ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- In an array: with a join in order of the ids, the plan reads the whole table for them.
    UPDATE sync.streams s SET touched_at = clock_timestamp(), holder = server
    WHERE s.id = ANY (ARRAY(SELECT o.id FROM sync.streams o WHERE o.id = ANY (ids) FOR UPDATE SKIP LOCKED));
END
$$;

-- Which of these open streams have lost their row: it was deleted, or belongs to another user now. None while rows are hidden.
CREATE OR REPLACE FUNCTION sync.lost_streams(ids uuid[]) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
    SELECT s.id FROM sync.streams s
    WHERE s.id = ANY (ids) AND s.state = 'open' AND sync.hidden() IS NULL
      AND NOT EXISTS (SELECT FROM sync.streamed(s.kind::text, s.row_key, s.name) r WHERE r.owner = s.user_id)
$$;

-- Compares a stream that has ended with its row, and with `write` writes its text there. `became`: as sync.settle says, which
-- settles the stream unless it is `lags`; NULL: the row does not take the text, for the reason `fault`, an SQLSTATE, which is
-- 02000 if a trigger skips the update.
--
-- Triggers of the app run in here, as in sync.apply.
CREATE OR REPLACE FUNCTION sync.settle_stream(server text, of_id uuid, write boolean, OUT became text, OUT fault text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    due sync.streams;
    body pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, public, pg_temp', true);
    SELECT s.* INTO due FROM sync.streams s WHERE s.id = of_id;
    SELECT coalesce(pg_catalog.string_agg(p.text, '' ORDER BY p.at), '') INTO body FROM sync.stream_text p
    WHERE p.slot = due.slot AND p.stream = due.id;
    BEGIN
        -- Again if the row has changed meanwhile.
        FOR _ IN 1 .. 2 LOOP
            became := sync.settle(due.kind::text, due.user_id, due.row_key, due.name, body, due.base, due.state, write);
            EXIT WHEN became <> 'lags' OR NOT write;
        END LOOP;
        -- Not only when `written`: a stream without a text marks the row, too.
        IF became IN ('settled', 'written') THEN
            PERFORM sync.run_deferred_triggers();
        END IF;
    EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
        -- A constraint or a trigger of the app. The text stays, and is tried again.
        became := NULL;
        fault := SQLSTATE;
    END;
    IF became = 'lags' AND write THEN
        -- A trigger of the app skips the update.
        became := NULL;
        fault := '02000';
    END IF;
    IF became IN ('gone', 'settled', 'written') THEN
        UPDATE sync.streams s SET settled_at = pg_catalog.clock_timestamp(), look_at = NULL WHERE s.id = due.id;
        PERFORM sync.ring_streams(server, ARRAY[due.id]);
    ELSE
        UPDATE sync.streams s
        SET looks = CASE WHEN fault IS NULL THEN 0 ELSE s.looks + 1 END,
            look_at = pg_catalog.clock_timestamp()
                      + CASE WHEN fault IS NULL THEN interval '0.5 s'
                             ELSE least(interval '1 s' * power(2, least(s.looks, 6)), interval '1 minute') END
        WHERE s.id = due.id;
    END IF;
END
$$;

-- Ends open streams whose writer was silent for `silence`, and those that nobody has ended a second after they were to stop. Looks
-- at the rows of up to 100 streams that have ended. What the app has not written `patience` after the end is written into the row.
-- Returns what became of each, and why a row could not be written. The next call finds what this one has no time for; it comes at
-- once after one of 100 (server/streams/keeper.py: LOOKS).
CREATE OR REPLACE FUNCTION sync.settle_streams(server text, silence interval, patience interval)
RETURNS TABLE (stream uuid, ended text, settled boolean, written boolean, trouble text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
DECLARE
    due sync.streams;
    found pg_catalog.record;
BEGIN
    IF sync.hidden() IS NOT NULL THEN
        PERFORM sync.refuse_hidden(sync.hidden());
    END IF;
    FOR due IN
        SELECT s.* FROM sync.streams s
        WHERE s.id = ANY (ARRAY(SELECT d.id FROM sync.streams d
                                WHERE d.settled_at IS NULL
                                  AND CASE WHEN d.state = 'open' THEN least(d.touched_at + silence, d.stop_at + interval '1 s')
                                           ELSE d.look_at END
                                      <= clock_timestamp()
                                ORDER BY d.looks, d.touched_at LIMIT 100))
        -- As in sync.push: two groups cannot deadlock over feeds.
        ORDER BY s.user_id FOR UPDATE SKIP LOCKED
    LOOP
        CONTINUE WHEN due.settled_at IS NOT NULL;  -- by another server, meanwhile
        EXIT WHEN clock_timestamp() > statement_timestamp() + interval '1 s';
        IF due.state = 'open' THEN
            due.writes := due.touched_at + silence <= clock_timestamp();
            SELECT e.state INTO due.state
            FROM sync.end_stream(server, due.id, CASE WHEN due.stop_at IS NULL THEN 'failed' ELSE 'stopped' END, NULL, due.writes) e;
            due.ended_at := clock_timestamp();
        END IF;
        SELECT * INTO found FROM sync.settle_stream(server, due.id, due.writes OR due.ended_at < clock_timestamp() - patience);
        RETURN QUERY SELECT due.id, due.state, coalesce(found.became <> 'lags', false), coalesce(found.became = 'written', false),
                            found.fault;
    END LOOP;
END
$$;

-- Before other columns may be streamed, or none: ends streams, and writes their texts into their rows. `kept`: the columns that
-- may be streamed then, by tag and name, each with true if they are where they were; their streams go on. Raises if a row does not
-- take its text. One whose row cannot be looked for, say because its table was dropped, is left to servers if its column is among
-- `kept`; else it has no place.
CREATE OR REPLACE FUNCTION sync.close_streams(kept jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    due sync.streams;
    found pg_catalog.record;
BEGIN
    LOCK TABLE sync.streams IN EXCLUSIVE MODE;  -- none is opened meanwhile, and no server looks at rows
    FOR due IN
        SELECT s.* FROM sync.streams s
        WHERE s.settled_at IS NULL AND coalesce(kept -> s.kind::text ->> s.name, 'false') <> 'true' ORDER BY s.user_id
    LOOP
        IF sync.hidden() IS NOT NULL THEN
            PERFORM sync.refuse_hidden(sync.hidden());
        END IF;
        IF due.state = 'open' THEN
            PERFORM sync.end_stream('', due.id, CASE WHEN due.stop_at IS NULL THEN 'failed' ELSE 'stopped' END, NULL, true);
        END IF;
        BEGIN
            PERFORM FROM sync.streamed(due.kind::text, due.row_key, due.name);
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                RAISE;
            WHEN OTHERS THEN  -- no such table or column, or the key is of another type
                IF NOT coalesce(kept -> due.kind::text ? due.name, false) THEN
                    UPDATE sync.streams s SET settled_at = clock_timestamp(), look_at = NULL WHERE s.id = due.id;
                    PERFORM sync.ring_streams('', ARRAY[due.id]);
                END IF;
                CONTINUE;
        END;
        SELECT * INTO found FROM sync.settle_stream('', due.id, true);
        CONTINUE WHEN found.became IS NOT NULL;
        IF found.fault IN ('55P03', '40P01') THEN
            RAISE EXCEPTION 'the row of a stream is locked' USING ERRCODE = found.fault;
        ELSE
            RAISE EXCEPTION 'Column % of row % of kind «%» does not take the text that was streamed to it (%). It would be lost: '
                            'write another text there, or delete the row, then try again.', due.name,
                            array_to_string(due.row_key, ', '), (SELECT k.kind FROM sync.kinds k WHERE k.tag = due.kind LIMIT 1),
                            CASE found.fault WHEN '02000' THEN 'a trigger skips the update' ELSE 'SQLSTATE ' || found.fault END
                  USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM jsonb_each(kept) k (tag, names) WHERE k.names <> '{}') THEN
        TRUNCATE sync.stream_text;  -- no server will
    END IF;
END
$$;

-- The streams of a row, without their texts, for `atlas-sync trace`.
CREATE OR REPLACE FUNCTION sync.trace_streams(tag text, key text[])
RETURNS TABLE (name text, state text, length int, server text, opened_at bigint, touched_at bigint, stop_at bigint,
               ended_at bigint, settled_at bigint, failures int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.name, s.state, e.at, s.holder, sync.seq_at(s.opened_at), sync.seq_at(s.touched_at), sync.seq_at(s.stop_at),
           sync.seq_at(s.ended_at), sync.seq_at(s.settled_at), s.looks
    FROM sync.streams s CROSS JOIN LATERAL sync.stream_end(s.slot, s.id) e
    WHERE s.kind = tag::"char" AND s.row_key = key ORDER BY s.name
$$;

-- Empties the slots that are used next, and forgets streams that were settled a day ago.
CREATE OR REPLACE FUNCTION sync.rotate_streams() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
#variable_conflict use_column
DECLARE
    here pg_catalog.int2 := sync.stream_slot();
    moved pg_catalog.uuid[];
BEGIN
    -- Not clock_timestamp(): by it no index is searched, and a day's streams are read each time.
    DELETE FROM sync.streams s
    WHERE s.id = ANY (ARRAY(SELECT d.id FROM sync.streams d WHERE d.settled_at < statement_timestamp() - interval '1 day'
                            ORDER BY d.settled_at LIMIT 10000 FOR UPDATE SKIP LOCKED));
    FOR i IN 0 .. 3 LOOP
        -- Not the slots that streams are opened in now, or were until a moment ago.
        CONTINUE WHEN i = here OR i = (here + 3) % 4;
        CONTINUE WHEN pg_relation_size(format('sync.stream_text_%s', i)) = 0;
        BEGIN
            -- Nothing can be appended now. Texts that are not settled yet move: else a few that take long, or that their rows
            -- do not take, would keep those of all other streams.
            EXECUTE format('LOCK TABLE sync.stream_text_%s', i);
            WITH changed AS (
                UPDATE sync.streams s SET slot = here WHERE s.slot = i AND s.settled_at IS NULL RETURNING s.id
            ), copied AS (
                INSERT INTO sync.stream_text (slot, stream, at, text, ended)
                SELECT here, p.stream, p.at, p.text, p.ended
                FROM changed c JOIN sync.stream_text p ON p.slot = i AND p.stream = c.id
            )
            SELECT array_agg(c.id) INTO moved FROM changed c;
            EXECUTE format('TRUNCATE sync.stream_text_%s', i);
            IF moved IS NOT NULL THEN
                PERFORM sync.ring_streams('', moved);  -- who read meanwhile has perhaps found no text
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- next time
        END;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION sync.stream_slot, sync.stream_end, sync.ring_streams, sync.open_stream, sync.append_streams,
    sync.read_streams, sync.end_stream, sync.stop_streams, sync.touch_streams, sync.lost_streams, sync.settle_stream,
    sync.settle_streams, sync.close_streams, sync.rotate_streams, sync.trace_streams FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.open_stream, sync.append_streams, sync.read_streams, sync.end_stream, sync.stop_streams,
    sync.touch_streams, sync.lost_streams, sync.settle_streams, sync.rotate_streams, sync.trace_streams TO atlas_sync;

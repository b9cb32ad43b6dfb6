-- Usage and costs: how events are written, and counted.

-- Trigger: gives the events of one statement their batch. `atlas-sync maintain` counts whole batches, by deleting their rows.
-- So an event is counted once, whenever it is committed and whenever it happened: a position in usage_logs would pass over
-- transactions that commit late.
CREATE OR REPLACE FUNCTION sync.begin_batch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given pg_catalog.int8;
BEGIN
    INSERT INTO sync.usage_batches DEFAULT VALUES RETURNING batch INTO given;
    PERFORM set_config('atlas_sync.usage_batch', given::text, true);
    RETURN NULL;
END
$$;

-- Writes groups of events. `docs`: a JSON array of events for each group; `keys`: its idempotency key, or NULL; `digests`: of
-- its events. Returns for each group `written`; `repeated` if it was written before; `differs` if other events were written
-- under its key. A transaction that writes the same key at this moment is waited for.
CREATE OR REPLACE FUNCTION sync.log_usage(keys uuid[], digests uuid[], docs text[]) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added pg_catalog.uuid[];
    results text[];
BEGIN
    -- In the order of the keys: another process may write the same ones.
    WITH added_now AS (
        INSERT INTO sync.usage_keys AS k (key, digest)
        SELECT u.key, u.digest FROM unnest(keys, digests) AS u (key, digest) WHERE u.key IS NOT NULL ORDER BY u.key
        ON CONFLICT (key) DO NOTHING RETURNING k.key
    )
    SELECT array_agg(key) INTO added FROM added_now;
    -- In a second statement, which sees what was committed while the first one waited.
    results := ARRAY(SELECT CASE WHEN u.key IS NULL OR u.key = ANY (added) AND u.i = min(u.i) OVER (PARTITION BY u.key)
                                 THEN 'written'
                                 WHEN k.digest = u.digest THEN 'repeated' ELSE 'differs' END
                     FROM unnest(keys, digests) WITH ORDINALITY AS u (key, digest, i)
                     LEFT JOIN sync.usage_keys k ON k.key = u.key ORDER BY u.i);
    IF 'written' = ANY (results) THEN
        INSERT INTO sync.usage_logs (user_id, event, data, "timestamp")
        SELECT e.user_id, e.event, coalesce(e.data, '{}'), coalesce(e."timestamp", now())
        FROM unnest(docs, results) AS g (doc, result)
        CROSS JOIN LATERAL jsonb_to_recordset(g.doc::jsonb)
            AS e (user_id uuid, event text, data jsonb, "timestamp" timestamptz)
        WHERE g.result = 'written';
    END IF;
    RETURN results;
END
$$;

-- What these tokens of a model cost on that day. NULL if the price list has no price for them.
CREATE OR REPLACE FUNCTION sync.cost(of_model text, on_day date, input_tokens bigint, output_tokens bigint) RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (input_tokens * p.input + output_tokens * p.output) * 0.000001 FROM sync.model_prices p
    WHERE p.model = of_model AND p.valid_from <= on_day ORDER BY p.valid_from DESC LIMIT 1
$$;

-- The price list as one value, to tell whether it was changed since costs were computed.
CREATE OR REPLACE FUNCTION sync.price_list() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' AS $$
    SELECT coalesce(jsonb_object_agg(model || ' ' || valid_from, jsonb_build_array(model, valid_from, input, output)), '{}')
    FROM sync.model_prices
$$;

-- Counts the events of up to `most` batches. Returns how many batches were counted.
--
-- It deletes the batches and adds their events to the daily tables in one transaction, so that a batch is counted once, however
-- often this runs and wherever it is stopped. Costs are computed from the sums of tokens, never added up, so that they follow
-- the price list. One transaction at a time counts: two could each miss what the other adds to a user's day.
--
-- What an event says is text of somebody else. Whatever it is, it must not stop the count: negative numbers, and what is no
-- number, count as 0, larger ones as a billion, and names are shortened to what fits into an index.
CREATE OR REPLACE FUNCTION sync.count_usage(most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET enable_seqscan = off AS $$
DECLARE
    taken pg_catalog.int8[];
    users pg_catalog.uuid[];
    days pg_catalog.date[];
    listed pg_catalog.jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sync.count_usage'));
    WITH counted AS (
        DELETE FROM sync.usage_batches
        WHERE batch IN (SELECT batch FROM sync.usage_batches ORDER BY batch LIMIT most) RETURNING batch
    )
    SELECT array_agg(batch) INTO taken FROM counted;
    WITH events AS MATERIALIZED (
        SELECT u.user_id, u."timestamp"::date AS date, u."timestamp" AS at,
               left(coalesce(nullif(u.data ->> 'tier', ''), sync.tier(u.user_id), 'unknown'), 100) AS tier,
               left(coalesce(nullif(u.data ->> 'model', ''), 'unknown'), 100) AS model,
               CASE WHEN jsonb_typeof(u.data -> 'input_tokens') = 'number'
                    THEN least(greatest(trunc((u.data ->> 'input_tokens')::numeric), 0), 1000000000)::bigint
                    ELSE 0 END AS input,
               CASE WHEN jsonb_typeof(u.data -> 'output_tokens') = 'number'
                    THEN least(greatest(trunc((u.data ->> 'output_tokens')::numeric), 0), 1000000000)::bigint
                    ELSE 0 END AS output,
               CASE WHEN u.data ->> 'conversation_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                    THEN (u.data ->> 'conversation_id')::uuid END AS conversation
        FROM sync.usage_logs u
        WHERE u.batch = ANY (taken) AND u.data ?| '{input_tokens,output_tokens,conversation_id}'
    ), costs AS (
        INSERT INTO sync.daily_costs AS d (user_id, date, tier, model, requests, input_tokens, output_tokens)
        SELECT e.user_id, e.date, e.tier, e.model, count(*), sum(e.input), sum(e.output)
        FROM events e WHERE e.input + e.output > 0 GROUP BY 1, 2, 3, 4
        ON CONFLICT (user_id, date, tier, model) DO UPDATE
            SET requests = d.requests + excluded.requests, input_tokens = d.input_tokens + excluded.input_tokens,
                output_tokens = d.output_tokens + excluded.output_tokens
    ), talks AS (
        INSERT INTO sync.daily_conversations AS d (date, user_id, conversation_id)
        SELECT DISTINCT e.date, e.user_id, e.conversation FROM events e WHERE e.conversation IS NOT NULL
        ON CONFLICT DO NOTHING RETURNING d.date, d.user_id
    ), used AS (
        INSERT INTO sync.daily_usage AS d (user_id, date, conversations_count, total_tokens_used, api_cost_estimate, tier, tier_at)
        SELECT e.user_id, e.date, coalesce(t.fresh, 0), e.tokens, 0, e.tier, e.at
        FROM (SELECT user_id, date, sum(input + output) AS tokens, (array_agg(tier ORDER BY at DESC))[1] AS tier, max(at) AS at
              FROM events GROUP BY 1, 2) e
        LEFT JOIN (SELECT user_id, date, count(*) AS fresh FROM talks GROUP BY 1, 2) t USING (user_id, date)
        ON CONFLICT (user_id, date) DO UPDATE
            SET conversations_count = d.conversations_count + excluded.conversations_count,
                total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
                tier = CASE WHEN excluded.tier_at >= d.tier_at THEN excluded.tier ELSE d.tier END,
                tier_at = greatest(excluded.tier_at, d.tier_at)
        RETURNING d.user_id, d.date
    )
    SELECT array_agg(user_id), array_agg(date) INTO users, days FROM used;
    -- Days of models whose prices were changed are computed again too.
    listed := sync.price_list();
    WITH changed AS (
        SELECT n.value ->> 0 AS model, min((n.value ->> 1)::date) AS since
        FROM sync.usage_state s CROSS JOIN LATERAL (
            SELECT l.value FROM jsonb_each(listed) l WHERE s.prices -> l.key IS DISTINCT FROM l.value
            UNION ALL
            SELECT f.value FROM jsonb_each(s.prices) f WHERE NOT listed ? f.key
        ) n GROUP BY 1
    )
    SELECT array_cat(users, array_agg(d.user_id)), array_cat(days, array_agg(d.date)) INTO users, days
    FROM changed c JOIN sync.daily_costs d ON d.model = c.model AND d.date >= c.since;
    UPDATE sync.usage_state SET prices = listed WHERE prices <> listed;
    WITH touched AS (SELECT DISTINCT t.user_id, t.date FROM unnest(users, days) AS t (user_id, date)),
    priced AS (
        SELECT d.user_id, d.date, d.tier, d.model, c.cost
        FROM touched t JOIN sync.daily_costs d USING (user_id, date)
        CROSS JOIN LATERAL sync.cost(d.model, d.date, d.input_tokens, d.output_tokens) AS c (cost)
    )
    UPDATE sync.daily_costs d SET cost = p.cost FROM priced p
    WHERE (d.user_id, d.date, d.tier, d.model) = (p.user_id, p.date, p.tier, p.model) AND d.cost IS DISTINCT FROM p.cost;
    WITH touched AS (SELECT DISTINCT t.user_id, t.date FROM unnest(users, days) AS t (user_id, date))
    UPDATE sync.daily_usage u SET api_cost_estimate = s.cost
    FROM touched t CROSS JOIN LATERAL (
        SELECT least(coalesce(sum(d.cost), 0), 999999.9999)::numeric(10,4) AS cost
        FROM sync.daily_costs d WHERE d.user_id = t.user_id AND d.date = t.date
    ) s
    WHERE u.user_id = t.user_id AND u.date = t.date AND u.api_cost_estimate <> s.cost;
    RETURN coalesce(cardinality(taken), 0);
END
$$;

-- Figures of usage and costs, for the server's metrics. `pending`: age of the oldest event that is not counted, in seconds.
CREATE OR REPLACE FUNCTION sync.usage_vitals(OUT pending float, OUT ahead float, OUT tiers text, OUT unusual_users int,
                                             OUT unusual_tiers int, OUT models_without_price int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(EXTRACT(epoch FROM now() - (SELECT b.written_at FROM sync.usage_batches b ORDER BY b.batch LIMIT 1)), 0)::float,
           coalesce(EXTRACT(epoch FROM sync.partitions_reach('usage_logs') - now()) / 86400, 0)::float,
           s.tiers::text, s.unusual_users, s.unusual_tiers, s.models_without_price
    FROM sync.usage_state s
$$;

REVOKE ALL ON FUNCTION sync.begin_batch, sync.log_usage, sync.cost, sync.price_list, sync.count_usage, sync.usage_vitals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.log_usage, sync.usage_vitals TO atlas_sync;

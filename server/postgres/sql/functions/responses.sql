-- The response cache. The server reaches its tables only through these functions, one key at a time.

-- The response for a key if there is one that has not expired. Otherwise, with `seconds`, the caller gets the lease for that
-- long, unless another one has it. `fence`: the lease that the caller got. `seconds_left`: until that, or the other one's,
-- ends. `answered_at`: the time here. Returns one row.
CREATE OR REPLACE FUNCTION sync.take_response(hash text, of_tier text, seconds float8)
RETURNS TABLE (response text, tokens int, cost numeric, created_at timestamptz, expires_at timestamptz, version bigint,
               fence bigint, seconds_left float8, answered_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    granted bigint;
BEGIN
    LOOP
        RETURN QUERY SELECT c.response_text, c.tokens, c.cost, c.created_at, c.expires_at, c.version, NULL::bigint,
                            NULL::float8, clock_timestamp()
        FROM sync.response_cache c
        WHERE c.query_hash = hash AND c.tier = of_tier AND c.expires_at > clock_timestamp();
        IF FOUND THEN
            DELETE FROM sync.response_leases l WHERE l.query_hash = hash AND l.tier = of_tier AND l.fence = granted;
            RETURN;
        END IF;
        EXIT WHEN seconds IS NULL OR granted IS NOT NULL;
        -- Those that wait look often: looking writes nothing.
        PERFORM FROM sync.response_leases l WHERE l.query_hash = hash AND l.tier = of_tier AND l.until > clock_timestamp();
        EXIT WHEN FOUND;
        INSERT INTO sync.response_leases AS l (query_hash, tier, fence, until)
        VALUES (hash, of_tier, sync.response_version(), clock_timestamp() + make_interval(secs => seconds))
        ON CONFLICT (query_hash, tier)
            DO UPDATE SET fence = greatest(excluded.fence, l.fence + 1), until = excluded.until
            WHERE l.until <= clock_timestamp()
        RETURNING l.fence INTO granted;
        EXIT WHEN granted IS NULL;
        -- Once more: the former holder may have stored its response since we looked.
    END LOOP;
    RETURN QUERY SELECT NULL::text, NULL::int, NULL::numeric, NULL::timestamptz, NULL::timestamptz, NULL::bigint, granted,
                        (SELECT extract(epoch FROM l.until - clock_timestamp())::float8 FROM sync.response_leases l
                         WHERE l.query_hash = hash AND l.tier = of_tier), clock_timestamp();
END
$$;

-- Microseconds since 1970.
CREATE OR REPLACE FUNCTION sync.response_version() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- Stores a response for `seconds`. With a lease only if that has not been taken over or dropped: otherwise no row. A repeat
-- under the same lease finds what it stored.
CREATE OR REPLACE FUNCTION sync.put_response(hash text, of_tier text, body text, seconds float8, of_tokens int,
                                             of_cost numeric, of_lease bigint)
RETURNS TABLE (created_at timestamptz, expires_at timestamptz, version bigint, answered_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.response_leases l
    WHERE l.query_hash = hash AND l.tier = of_tier AND (of_lease IS NULL OR l.fence = of_lease);
    IF of_lease IS NOT NULL AND NOT FOUND THEN
        RETURN QUERY SELECT c.created_at, c.expires_at, c.version, clock_timestamp()
        FROM sync.response_cache c WHERE c.query_hash = hash AND c.tier = of_tier AND c.version = of_lease;
        RETURN;
    END IF;
    RETURN QUERY INSERT INTO sync.response_cache AS c (query_hash, tier, response_text, tokens, cost, created_at, expires_at,
                                                       version)
    VALUES (hash, of_tier, body, of_tokens, of_cost, clock_timestamp(), clock_timestamp() + make_interval(secs => seconds),
            coalesce(of_lease, sync.response_version()))
    ON CONFLICT (query_hash, tier)
        DO UPDATE SET response_text = excluded.response_text, tokens = excluded.tokens, cost = excluded.cost,
                      created_at = excluded.created_at, expires_at = excluded.expires_at,
                      version = greatest(excluded.version, c.version + 1)
    RETURNING c.created_at, c.expires_at, c.version, clock_timestamp();
END
$$;

-- Deletes a response, and ends the lease for it. Returns a version greater than that of any response so far.
CREATE OR REPLACE FUNCTION sync.drop_response(hash text, of_tier text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last bigint;
BEGIN
    DELETE FROM sync.response_leases l WHERE l.query_hash = hash AND l.tier = of_tier;
    DELETE FROM sync.response_cache c WHERE c.query_hash = hash AND c.tier = of_tier RETURNING c.version INTO last;
    RETURN greatest(last + 1, sync.response_version());
END
$$;

-- Ends a lease without a response.
CREATE OR REPLACE FUNCTION sync.release_response(hash text, of_tier text, of_lease bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sync.response_leases l WHERE l.query_hash = hash AND l.tier = of_tier AND l.fence = of_lease
$$;

-- Adds a process's group of hits, one array element for each key. A group whose number is not above that of the last one was
-- counted already.
CREATE OR REPLACE FUNCTION sync.count_hits(of_process uuid, of_number bigint, hashes text[], tiers text[], hits bigint[])
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    counted record;
BEGIN
    INSERT INTO sync.response_flushes AS f (process, number, flushed_at) VALUES (of_process, of_number, now())
    ON CONFLICT (process)
        DO UPDATE SET number = excluded.number, flushed_at = excluded.flushed_at WHERE f.number < excluded.number;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- In one order, so that two groups cannot deadlock. One by one: joined with the arrays, the keys are compared each with
    -- each (150 instead of 15 ms for 1,000).
    FOR counted IN SELECT u.hash, u.tier, u.hits FROM unnest(hashes, tiers, hits) AS u (hash, tier, hits) ORDER BY 1, 2 LOOP
        UPDATE sync.response_cache c SET hit_count = least(c.hit_count + counted.hits, 2147483647)::int
        WHERE c.query_hash = counted.hash AND c.tier = counted.tier;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION sync.take_response, sync.response_version, sync.put_response, sync.drop_response,
    sync.release_response, sync.count_hits FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.take_response, sync.put_response, sync.drop_response, sync.release_response, sync.count_hits
    TO atlas_sync;

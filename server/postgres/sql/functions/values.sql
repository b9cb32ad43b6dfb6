-- Values between devices and the declared tables.

-- The user whom a column of texts names. NULL, and so nobody, unless it is a uuid in its canonical form.
CREATE OR REPLACE FUNCTION sync.user_of(held text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN held ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN held::uuid END
$$;

-- The instant of so many microseconds since 1970, or an infinite one. Days apart from the rest: as one interval, microseconds
-- beyond 2^53 would be rounded. They are days of UTC, whatever the time zone is. Microseconds of the last years that Postgres
-- has are no bigint. In SQL it takes three times as long.
CREATE OR REPLACE FUNCTION sync.instant(microseconds text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN microseconds IN ('infinity', '-infinity') THEN microseconds::timestamptz
                ELSE timezone('UTC', timestamp '1970-01-01 00:00:00'
                                     + div(microseconds::numeric, 86400000000)::int * interval '1 day'
                                     + mod(microseconds::numeric, 86400000000)::bigint * interval '1 microsecond') END;
END
$$;

-- The microseconds from 1970 to an instant, as text.
CREATE OR REPLACE FUNCTION sync.microseconds(moment timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN isfinite(moment) THEN trunc(EXTRACT(epoch FROM moment) * 1000000)::text ELSE moment::text END
$$;

-- The elements of a JSON array as texts.
CREATE OR REPLACE FUNCTION sync.elements(array_text text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT e.element FROM jsonb_array_elements_text(array_text::jsonb) WITH ORDINALITY AS e (element, i)
                 ORDER BY e.i)
$$;

REVOKE ALL ON FUNCTION sync.user_of, sync.instant, sync.microseconds, sync.elements FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.user_of, sync.instant, sync.microseconds TO atlas_sync;

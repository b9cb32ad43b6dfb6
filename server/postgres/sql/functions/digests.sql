-- Digests of mutations: whether a mutation number means the same mutation to the device and to this database. The column
-- comments of sync.clients are in migrations/0007_histories.sql.

-- Whether some numbers of a push were consumed earlier by other mutations. `pushed` has 0 where the device gives no digest.
-- A device never sends a number again below those whose digests are kept, unless the server does not know what it holds.
CREATE OR REPLACE FUNCTION sync.differ(last_mutation bigint, digests bigint[], first bigint, pushed bigint[])
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

-- The digests to keep after a push: those of the mutations that the device holds, and of 16 before them, because a device
-- that lost power may have lost what it stored last. Digests of mutations that were consumed earlier stay as they are: a
-- device that no longer holds a mutation does not push it. A device that does not say what it holds has no known digests.
CREATE OR REPLACE FUNCTION sync.keep(before bigint, after bigint, digests bigint[], first bigint, held bigint, pushed bigint[])
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

-- The digests to recognise under other numbers: those of `former`, and of `digests` those of applied mutations.
CREATE OR REPLACE FUNCTION sync.recognised(former bigint[], digests bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(k.digest ORDER BY k.i), '{}')
    FROM (SELECT digest, i FROM unnest(former || digests) WITH ORDINALITY AS u (digest, i)
          WHERE digest > 0 ORDER BY i DESC LIMIT 10000) k
$$;

REVOKE ALL ON FUNCTION sync.differ, sync.keep, sync.recognised FROM PUBLIC;

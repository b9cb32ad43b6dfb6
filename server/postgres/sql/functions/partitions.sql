-- Partitions of messages, messages_archive, the log and usage_logs: `atlas-sync migrate` makes those of the coming months,
-- `atlas-sync maintain` makes, archives and drops them. A partition lies in the schema of its table. A row that lies in a default
-- partition although its time is over is a stray.

-- How many rows lie in a default partition, 10,000 at most; 0 if there is none.
CREATE OR REPLACE FUNCTION sync.strays(of text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stray regclass := (SELECT nullif(partdefid, 0) FROM pg_partitioned_table
                       WHERE partrelid = to_regclass(CASE WHEN of = 'messages' THEN 'public.' ELSE 'sync.' END || of));
    found bigint := 0;
BEGIN
    IF stray IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 10000) AS first', stray) INTO found;
    END IF;
    RETURN found;
END
$$;

-- How many messages of each month lie in the default partition.
CREATE OR REPLACE FUNCTION sync.stray_messages() RETURNS TABLE (month timestamptz, rows bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('public.messages_default') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT date_trunc(''month'', created_at, ''UTC''), count(*) FROM public.messages_default GROUP BY 1';
    END IF;
END
$$;

-- Until when partitions reach without a gap, from now on. NULL if there is none for now.
CREATE OR REPLACE FUNCTION sync.partitions_reach(of text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT min(s.until) FROM sync.partitions s
    WHERE s.parent = of AND s.until > now()
      AND EXISTS (SELECT FROM sync.partitions n WHERE n.parent = of AND n.since <= now() AND n.until > now())
      AND NOT EXISTS (SELECT FROM sync.partitions n WHERE n.parent = of AND n.since = s.until)
$$;

-- Only its owner may reach rows through a partition. The rights and row policies of the partitioned table do not apply there, and
-- a schema may have default rights for new tables. So the partition has row level security without a policy, and no rights.
-- Postgres does not clone statement triggers, so the one that refuses TRUNCATE is created here.
CREATE OR REPLACE FUNCTION sync.close_partition(of text, part text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    home text := CASE WHEN of LIKE 'messages%' THEN 'public' ELSE 'sync' END;
    name text := format('%I.%I', home, part);
    who text;
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
    FOR who IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
               FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = name::regclass AND a.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', name, who);
    END LOOP;
    IF (SELECT relreplident = 'f' FROM pg_class WHERE oid = format('%I.%I', home, of)::regclass) THEN
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', name);
    END IF;
    IF of LIKE 'messages%' AND NOT EXISTS (SELECT FROM pg_trigger
                                           WHERE tgrelid = name::regclass AND tgname = 'atlas_sync_refuse_truncate') THEN
        EXECUTE format('CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', name);
    END IF;
END
$$;

-- Makes the partition that begins at `since` (the first of a month; in the log and in usage_logs a Monday; UTC), unless there
-- is one, and moves the stray rows of its time into it. Moving changes no row and fires no trigger, so devices receive nothing.
-- Returns how many rows were moved, or NULL if no partition was made.
--
-- It uses LIKE and ATTACH instead of PARTITION OF, which would lock the partitioned table exclusively. This function locks
-- the default partition exclusively, and conversations against writers, for a few milliseconds. If rows are moved, which
-- takes longer, or the time of the partition has begun, so that its rows may be on their way, it locks the partitioned table
-- exclusively too.
CREATE OR REPLACE FUNCTION sync.make_partition(of text, since timestamptz, moves boolean DEFAULT true) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    home text := CASE WHEN of LIKE 'messages%' THEN 'public' ELSE 'sync' END;
    parent pg_catalog.regclass := home || '.' || of;
    stray pg_catalog.regclass := (SELECT nullif(partdefid, 0) FROM pg_catalog.pg_partitioned_table
                                  WHERE partrelid = CASE of WHEN 'messages_archive' THEN pg_catalog.to_regclass('public.messages') ELSE parent END);
    ending timestamptz := since + CASE WHEN of LIKE 'messages%' THEN interval '1 month' ELSE interval '1 week' END;
    part text := of || pg_catalog.to_char(since, CASE WHEN of LIKE 'messages%' THEN '_YYYY_MM' ELSE '_IYYY_"w"IW' END);
    first text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(since)::text ELSE since::text END);
    beyond text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(ending)::text ELSE ending::text END);
    key text := CASE of WHEN 'log' THEN 'seq' WHEN 'usage_logs' THEN 'timestamp' ELSE 'created_at' END;
    look text;
    strayed boolean;
    moved bigint := 0;
BEGIN
    IF stray IS NULL THEN
        RAISE undefined_table USING MESSAGE = pg_catalog.format('%s has no default partition', parent);
    END IF;
    -- An archived month gets no second partition in messages: its stray rows belong in the archive.
    IF EXISTS (SELECT FROM sync.partitions p
               WHERE (p.parent = of OR of LIKE 'messages%' AND p.parent LIKE 'messages%')
                 AND p.since < ending AND p.until > make_partition.since) THEN
        RETURN NULL;
    END IF;
    look := pg_catalog.format('SELECT EXISTS (SELECT FROM %s WHERE %I >= %s AND %I < %s)', stray, key, first, key, beyond);
    EXECUTE look INTO strayed;
    IF strayed AND NOT moves THEN
        RETURN NULL;
    END IF;
    IF strayed OR make_partition.since <= now() THEN
        -- A reader that has already read the list of partitions would not find the rows in a new one. A writer that has
        -- would write to the default partition, which then refuses the row.
        EXECUTE pg_catalog.format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
    END IF;
    -- Each lock is taken at once in the strongest mode that is needed. Upgrading a lock later would deadlock with a
    -- transaction that has read and then writes.
    EXECUTE pg_catalog.format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', stray);
    IF NOT strayed THEN
        EXECUTE look INTO strayed;
        IF strayed THEN
            RAISE lock_not_available USING MESSAGE = 'rows were inserted into the default partition at this moment';
        END IF;
    END IF;
    EXECUTE pg_catalog.format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', home, part, parent);
    PERFORM sync.close_partition(of, part);
    IF strayed THEN
        moved := sync.move_strays(stray, pg_catalog.format('%I.%I', home, part)::pg_catalog.regclass, key, first, beyond);
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%s) TO (%s)',
                              parent, home, part, first, beyond);
    IF of = 'messages_archive' THEN
        UPDATE sync.meta SET archived_until = ending WHERE archived_until < ending;
    END IF;
    RETURN moved;
END
$$;

-- Moves rows of a default partition to another table. No trigger fires, not even the app's; transactions that write to the
-- default partition wait. If the archive holds an older version of a row, the moved row replaces it. If it holds another
-- user's row with the same key, the stray row stays where it is.
CREATE OR REPLACE FUNCTION sync.move_strays(stray regclass, target regclass, key text, first text, beyond text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    tables pg_catalog.regclass[];
    triggers text[];
    columns text;
    replaces text;
    others text;
    moved bigint;
BEGIN
    EXECUTE pg_catalog.format('LOCK TABLE %s, %s IN SHARE ROW EXCLUSIVE MODE', stray, target);
    SELECT coalesce(pg_catalog.array_agg(tgrelid::pg_catalog.regclass), '{}'), coalesce(pg_catalog.array_agg(tgname::text), '{}')
    INTO tables, triggers
    FROM pg_catalog.pg_trigger WHERE tgrelid IN (stray, target) AND NOT tgisinternal AND tgenabled = 'O';
    FOR i IN 1 .. pg_catalog.cardinality(tables) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', tables[i], triggers[i]);
    END LOOP;
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', '),
           pg_catalog.string_agg(pg_catalog.format('%1$I = excluded.%1$I', attname), ', ')
    INTO columns, replaces
    FROM pg_catalog.pg_attribute WHERE attrelid = stray AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    IF key = 'created_at' THEN
        replaces := 'ON CONFLICT (id, created_at) DO UPDATE SET ' || replaces;
        others := pg_catalog.format('AND NOT EXISTS (SELECT FROM %s t JOIN public.conversations a ON a.id = t.conversation_id '
                                    'JOIN public.conversations b ON b.id = s.conversation_id WHERE t.id = s.id '
                                    'AND t.created_at = s.created_at AND a.user_id IS DISTINCT FROM b.user_id)', target);
    ELSE
        replaces := '';
    END IF;
    EXECUTE pg_catalog.format('WITH gone AS (DELETE FROM %s s WHERE s.%I >= %s AND s.%I < %s %s RETURNING s.*) '
                              'INSERT INTO %s (%s) SELECT %s FROM gone %s',
                              stray, key, first, key, beyond, others, target, columns, columns, replaces);
    GET DIAGNOSTICS moved = ROW_COUNT;
    FOR i IN 1 .. pg_catalog.cardinality(tables) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE TRIGGER %I', tables[i], triggers[i]);
    END LOOP;
    RETURN moved;
END
$$;

-- Turns the default partition, in place, into the regular partition from `since` to `ending`, and creates a new default
-- partition: for so many stray rows that moving them would block writers for too long. All rows of the default partition must
-- lie in that range. They are read under the lock (1 s for 13 million).
CREATE OR REPLACE FUNCTION sync.turn_default(of text, since timestamptz, ending timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    home text := CASE WHEN of LIKE 'messages%' THEN 'public' ELSE 'sync' END;
    parent pg_catalog.regclass := home || '.' || of;
    stray text := of || '_default';
    part text := of || pg_catalog.to_char(since, CASE WHEN of LIKE 'messages%' THEN '_YYYY_MM_on' ELSE '_IYYY_"w"IW_on' END);
    first text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(since)::text ELSE since::text END);
    beyond text := pg_catalog.quote_literal(CASE of WHEN 'log' THEN sync.seq_at(ending)::text ELSE ending::text END);
BEGIN
    IF of LIKE 'messages%' THEN
        LOCK TABLE public.conversations IN ACCESS EXCLUSIVE MODE;  -- for the reason given in archive_partition
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE %s DETACH PARTITION %I.%I', parent, home, stray);
    EXECUTE pg_catalog.format('ALTER TABLE %I.%I RENAME TO %I', home, stray, part);
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%s) TO (%s)',
                              parent, home, part, first, beyond);
    EXECUTE pg_catalog.format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', home, stray, parent);
    PERFORM sync.close_partition(of, stray);
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %I.%I DEFAULT', parent, home, stray);
END
$$;

-- Makes the partition of every month of messages and every week of the log and of usage_logs that [since, until] touches, except
-- where stray rows lie: moving them is left to `maintain`. Past weeks are not made.
CREATE OR REPLACE FUNCTION sync.ensure_partitions(since timestamptz, until timestamptz) RETURNS int
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT count(moved)::int
    FROM (SELECT sync.make_partition('messages', month, false) AS moved
          FROM pg_catalog.generate_series(pg_catalog.date_trunc('month', since), until, interval '1 month') AS month
          WHERE pg_catalog.to_regclass('public.messages_archive') IS NOT NULL
          UNION ALL
          SELECT sync.make_partition(weekly, week, false)
          FROM pg_catalog.unnest(ARRAY['log', 'usage_logs']) AS weekly,
               pg_catalog.generate_series(pg_catalog.date_trunc('week', greatest(since, now())), until, interval '1 week') AS week
         ) AS made
$$;

-- Moves a partition of messages, in place, into the archive: at one moment for every reader, and without recording a change.
-- (DETACH … CONCURRENTLY is refused where there is a default partition, and would leave the rows in neither table for a
-- while.) A validated constraint `atlas_bounds` on the partition (sync.bound_partition) saves a scan under the lock.
CREATE OR REPLACE FUNCTION sync.archive_partition(part regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    bound text := pg_catalog.pg_get_expr((SELECT relpartbound FROM pg_catalog.pg_class WHERE oid = part), part);
    archived timestamptz := (SELECT p.until FROM sync.partitions p WHERE p.partition = part);
BEGIN
    -- DETACH and ATTACH lock conversations for the partition's foreign key, first in a weaker mode. A transaction that has
    -- read conversations and then writes would deadlock with the stronger lock that follows.
    LOCK TABLE public.conversations IN ACCESS EXCLUSIVE MODE;
    EXECUTE pg_catalog.format('ALTER TABLE public.messages DETACH PARTITION %s', part);
    EXECUTE pg_catalog.format('ALTER TABLE public.messages_archive ATTACH PARTITION %s %s', part, bound);
    EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS atlas_bounds', part);
    UPDATE sync.meta SET archived_until = archived WHERE archived_until < archived;
END
$$;

-- Adds the partition's bounds as a constraint that is not validated. VALIDATE CONSTRAINT then reads the rows without blocking
-- readers or writers.
CREATE OR REPLACE FUNCTION sync.bound_partition(part regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT atlas_bounds CHECK (%s) NOT VALID', part,
                              pg_catalog.pg_get_partition_constraintdef(part));
END
$$;

REVOKE ALL ON FUNCTION sync.strays, sync.stray_messages, sync.partitions_reach, sync.close_partition, sync.make_partition, sync.move_strays, sync.turn_default,
    sync.ensure_partitions, sync.archive_partition, sync.bound_partition FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.partitions_reach TO atlas_sync;

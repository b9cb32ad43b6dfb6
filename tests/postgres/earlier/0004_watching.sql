-- What operators and support staff ask: how far partitions reach, the database's vital signs, where each device was.

-- Every partition with its bounds. MINVALUE and MAXVALUE are the infinities; a default partition has none.
CREATE VIEW sync.partitions AS
WITH bounds AS (
    SELECT i.inhparent, p.relname AS parent, i.inhrelid, pg_get_expr(c.relpartbound, c.oid) AS bound,
           regexp_match(pg_get_expr(c.relpartbound, c.oid),
                        'FROM \(''?(MINVALUE|[^'')]+)''?\) TO \(''?(MAXVALUE|[^'')]+)''?\)') AS b
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE i.inhparent IN (to_regclass('public.messages'), to_regclass('public.messages_archive'), to_regclass('sync.log'))
)
SELECT parent::text AS parent, inhrelid::regclass AS partition, bound = 'DEFAULT' AS is_default,
       CASE WHEN b[1] = 'MINVALUE' THEN '-infinity'
            WHEN parent = 'log' THEN to_timestamp(b[1]::numeric / 1000000) ELSE b[1]::timestamptz END AS since,
       CASE WHEN b[2] = 'MAXVALUE' THEN 'infinity'
            WHEN parent = 'log' THEN to_timestamp(b[2]::numeric / 1000000) ELSE b[2]::timestamptz END AS until
FROM bounds;

-- Until when partitions reach without a gap from now on; NULL if there is none for now.
CREATE FUNCTION sync.partitions_reach(of text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT min(s.until) FROM sync.partitions s
    WHERE s.parent = of AND s.until > now()
      AND EXISTS (SELECT FROM sync.partitions n WHERE n.parent = of AND n.since <= now() AND n.until > now())
      AND NOT EXISTS (SELECT FROM sync.partitions n WHERE n.parent = of AND n.since = s.until)
$$;

-- When maintenance was last carried through.
ALTER TABLE sync.meta ADD COLUMN maintained_at timestamptz;

-- With its owner's eyes: when others' transactions began is for members of pg_read_all_stats, and else NaN here. A VACUUM
-- holds a snapshot that keeps no row.
CREATE FUNCTION sync.vitals(OUT notification_queue float, OUT oldest_xmin bigint, OUT oldest_transaction float,
                            OUT log_bytes bigint, OUT messages_default bigint, OUT log_default bigint,
                            OUT messages_ahead float, OUT log_ahead float, OUT maintained_ago float)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT pg_catalog.pg_notification_queue_usage(),
           greatest((SELECT max(pg_catalog.age(backend_xmin)) FROM pg_catalog.pg_stat_activity
                     WHERE pid <> pg_catalog.pg_backend_pid() AND backend_type IS DISTINCT FROM 'autovacuum worker'
                       AND coalesce(query, '') !~* '^\s*vacuum'),
                    (SELECT max(pg_catalog.age(transaction)) FROM pg_catalog.pg_prepared_xacts),
                    (SELECT max(greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin)))
                     FROM pg_catalog.pg_replication_slots), 0),
           CASE WHEN NOT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') THEN 'NaN'::float ELSE
           greatest((SELECT max(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - xact_start))
                     FROM pg_catalog.pg_stat_activity
                     WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
                       AND backend_type = 'client backend'), 0)::float END,
           (SELECT sum(pg_catalog.pg_total_relation_size(partition)) FROM sync.partitions WHERE parent = 'log')::bigint,
           (SELECT count(*) FROM (SELECT FROM sync.messages_default LIMIT 10000) AS first),
           (SELECT count(*) FROM (SELECT FROM sync.log_default LIMIT 10000) AS first),
           coalesce(EXTRACT(epoch FROM sync.partitions_reach('messages') - now()) / 86400, 0)::float,
           coalesce(EXTRACT(epoch FROM sync.partitions_reach('log') - now()) / 86400, 0)::float,
           (SELECT EXTRACT(epoch FROM now() - maintained_at) FROM sync.meta)::float
$$;

-- Server processes that live say so every few seconds; what one that fell silent said of its devices is not true any more.
CREATE TABLE sync.servers (
    server  text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

-- Where each device was when its server last said so: seconds old, and written in groups, never for a single change.
CREATE TABLE sync.devices (
    user_id      uuid NOT NULL,
    client_id    uuid NOT NULL,
    session      text NOT NULL,          -- its connection, as the server's log names it
    server       text NOT NULL,
    seq          bigint,                 -- its position, or the last before the snapshot that it gets
    state        text NOT NULL,          -- live, catching_up, snapshot, stalled, closed
    close_code   int,
    connected_at timestamptz NOT NULL,
    noted_at     timestamptz NOT NULL,
    PRIMARY KEY (user_id, client_id)
) WITH (fillfactor = 50);

-- One array element a device. What an older connection of a device comes to in the end does not hide a newer one.
CREATE FUNCTION sync.note(of_server text, users uuid[], client_ids uuid[], sessions text[], seqs bigint[], states text[],
                          close_codes int[], connected_ats timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    -- Nobody waits for the disk because of this: what a crash loses is noted again.
    PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
    INSERT INTO sync.servers (server, seen_at) VALUES (of_server, now())
    ON CONFLICT (server) DO UPDATE SET seen_at = excluded.seen_at;
    INSERT INTO sync.devices AS d (user_id, client_id, session, server, seq, state, close_code, connected_at, noted_at)
    SELECT u.user_id, u.client_id, u.session, of_server, u.seq, u.state, u.close_code, u.connected_at, now()
    FROM unnest(users, client_ids, sessions, seqs, states, close_codes, connected_ats)
         AS u (user_id, client_id, session, seq, state, close_code, connected_at)
    ORDER BY u.user_id, u.client_id
    ON CONFLICT (user_id, client_id) DO UPDATE
        SET session = excluded.session, server = excluded.server, seq = coalesce(excluded.seq, d.seq),
            state = excluded.state, close_code = excluded.close_code, noted_at = excluded.noted_at,
            connected_at = excluded.connected_at
        WHERE excluded.connected_at >= d.connected_at;
END
$$;

REVOKE ALL ON FUNCTION sync.partitions_reach, sync.vitals, sync.note FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.partitions_reach, sync.vitals, sync.note TO atlas_sync;
GRANT SELECT ON sync.partitions, sync.servers, sync.devices, sync.clients TO atlas_sync;

-- The database's vital signs, for the server's metrics.

-- It runs as its owner. Only members of pg_read_all_stats may see when other sessions' transactions began; for another owner
-- `oldest_transaction` is NaN. The snapshot of a VACUUM does not keep dead rows from being removed, so it does not count.
CREATE OR REPLACE FUNCTION sync.vitals(OUT notification_queue float, OUT oldest_xmin bigint, OUT oldest_transaction float,
                            OUT log_bytes bigint, OUT messages_default bigint, OUT log_default bigint,
                            OUT messages_ahead float, OUT log_ahead float, OUT maintained_ago float)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
           sync.strays('messages'),
           sync.strays('log'),
           CASE WHEN pg_catalog.to_regclass('public.messages_archive') IS NULL THEN 'infinity'::float
                ELSE coalesce(EXTRACT(epoch FROM sync.partitions_reach('messages') - now()) / 86400, 0)::float END,
           coalesce(EXTRACT(epoch FROM sync.partitions_reach('log') - now()) / 86400, 0)::float,
           (SELECT EXTRACT(epoch FROM now() - maintained_at) FROM sync.meta)::float
$$;

REVOKE ALL ON FUNCTION sync.vitals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.vitals TO atlas_sync;

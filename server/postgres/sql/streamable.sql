-- Whether this login can read changes from the WAL, one row. `doorbells`: what `migrate` has chosen. `free_…`: how many more
-- streams Postgres takes; `streams`: how many of ours there are. `kept`: -1 if a stream that hangs keeps all WAL. `awaited`:
-- whether each commit waits until any stream has received it, ours included.
SELECT m.doorbells, current_user AS login, current_setting('wal_level') AS wal_level,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = current_user AND (r.rolreplication OR r.rolsuper))
           OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'rds_replication' AND pg_has_role(r.oid, 'MEMBER')) AS streams_allowed,
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots) AS free_slots,
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_get_wal_senders()) AS free_senders,
       (SELECT count(*) FROM pg_replication_slots
        WHERE slot_name ^@ 'atlas_sync_' AND temporary AND database = current_database()) AS streams,
       (SELECT setting::int FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS kept,
       current_setting('synchronous_standby_names') ~ '[*]' AS awaited
FROM sync.meta m

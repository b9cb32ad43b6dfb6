-- How far the WAL is; the oldest transaction that is under way, and the next one; whether there is the publication with the
-- log, $1 its columns; and whether each commit waits for any stream. $2: keep NOTIFY silent, while nobody listens.
SELECT CASE WHEN $2::boolean THEN sync.keep_quiet() END AS quiet, (pg_current_wal_insert_lsn() - '0/0')::bigint AS written,
       pg_snapshot_xmin(s)::text::bigint AS oldest, pg_snapshot_xmax(s)::text::bigint AS next,
       EXISTS (SELECT FROM pg_publication_tables
               WHERE (pubname, schemaname, tablename) = ('atlas_sync', 'sync', 'log') AND attnames::text[] @> $1::text[])
           AS published,
       current_setting('synchronous_standby_names') ~ '[*]' AS awaited
FROM pg_current_snapshot() AS s

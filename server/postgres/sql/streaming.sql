-- Keeps NOTIFY silent while nobody listens, and returns how far the WAL was written.
SELECT sync.keep_quiet() AS quiet, (pg_current_wal_insert_lsn() - '0/0')::bigint AS written

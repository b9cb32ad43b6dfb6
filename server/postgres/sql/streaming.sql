-- Keeps the triggers quiet while nobody listens, and tells how far the WAL is.
SELECT sync.keep_quiet() AS quiet, (pg_current_wal_insert_lsn() - '0/0')::bigint AS written

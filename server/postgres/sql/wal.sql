-- How far the primary's WAL reaches, in bytes, to compare replicas with.
SELECT (pg_current_wal_lsn() - '0/0')::bigint AS wal

-- Writes groups of events: see functions/usage.sql.
SELECT unnest(sync.log_usage(keys => $1, digests => $2, docs => $3)) AS result

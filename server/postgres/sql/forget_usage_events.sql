-- Deletes old events in the default partition that are counted.
-- $1 days for which events are kept, $2 rows at once
DELETE FROM sync.usage_logs_default WHERE ctid = ANY (ARRAY(
    SELECT u.ctid FROM sync.usage_logs_default u
    WHERE u."timestamp" < now() - make_interval(days => $1 + 1)
      AND NOT EXISTS (SELECT FROM sync.usage_batches b WHERE b.batch = u.batch) LIMIT $2))

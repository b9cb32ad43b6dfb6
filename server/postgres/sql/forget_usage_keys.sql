-- Deletes old idempotency keys.
-- $1 days for which they are kept, $2 rows at once
DELETE FROM sync.usage_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sync.usage_keys WHERE written_at < now() - make_interval(days => $1) ORDER BY written_at LIMIT $2))

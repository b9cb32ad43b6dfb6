-- Deletes responses that have expired, leases that ended a day ago, and the last groups of processes that count no more.
-- Rows that are locked stay until the next round.
-- $1 is an argument of all forget_ statements and always positive; $2 responses at once
WITH leases AS (
    DELETE FROM sync.response_leases WHERE until < now() - interval '1 day'
), flushes AS (
    DELETE FROM sync.response_flushes WHERE flushed_at < now() - interval '1 day'
)
DELETE FROM sync.response_cache WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sync.response_cache WHERE expires_at < now() AND $1 > 0 LIMIT $2 FOR UPDATE SKIP LOCKED))

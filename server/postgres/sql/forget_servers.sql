-- Deletes the records of servers that have not reported for a day. Rows that are locked stay until the next round.
-- $1 is an argument of all forget_ statements and always positive; $2 rows at once
DELETE FROM sync.servers WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sync.servers WHERE seen_at < now() - interval '1 day' AND $1 > 0 LIMIT $2 FOR UPDATE SKIP LOCKED))

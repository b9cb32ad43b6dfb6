-- Deletes the records of devices that have not connected for long. Rows that are locked stay until the next round.
-- $1 days after which devices are forgotten, $2 rows at once
DELETE FROM sync.devices WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sync.devices WHERE noted_at < now() - make_interval(days => $1) LIMIT $2 FOR UPDATE SKIP LOCKED))

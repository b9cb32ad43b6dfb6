-- Deletes the records of installations that have neither pushed nor connected for long. Rows that are locked stay until the
-- next round.
-- $1 days after which installations are forgotten, $2 rows at once
DELETE FROM sync.clients c WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sync.clients o
    WHERE o.pushed_at < now() - make_interval(days => $1)
      AND NOT EXISTS (SELECT FROM sync.devices d
                      WHERE (d.user_id, d.client_id) = (o.user_id, o.client_id)
                        AND d.noted_at >= now() - make_interval(days => $1))
    LIMIT $2 FOR UPDATE SKIP LOCKED))

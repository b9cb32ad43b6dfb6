-- The last report on each of the owner's devices, the last seen first. `resumes`: the log continues at the device's position.
-- $1 owner, $2 the feed's head
SELECT d.client_id, d.session, d.server, d.state, d.seq AS position, d.close_code,
       sync.seq_at(d.connected_at) AS connected_at, sync.seq_at(d.noted_at) AS noted_at,
       sync.seq_at(s.seen_at) AS server_seen_at,
       coalesce(d.seq = $2 OR (d.seq < $2 AND (next.prev = d.seq OR next.seq = d.seq + 1)), false) AS resumes
FROM sync.devices d
LEFT JOIN sync.servers s ON s.server = d.server
LEFT JOIN LATERAL (
    SELECT seq, prev FROM sync.log WHERE user_id = $1 AND seq > d.seq ORDER BY seq, n LIMIT 1
) next ON true
WHERE d.user_id = $1
ORDER BY d.noted_at DESC, d.client_id

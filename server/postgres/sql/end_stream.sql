-- Ends a stream: see functions/streams.sql.
SELECT state, at FROM sync.end_stream(server => $1, of_id => $2, as_state => $3, expected => $4, writes => $5)

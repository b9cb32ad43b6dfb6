-- The streams of a row, without their texts: see functions/streams.sql.
-- $1 the kind's tag, $2 the texts of its key
SELECT name, state, length, server, opened_at, touched_at, stop_at, ended_at, settled_at, failures
FROM sync.trace_streams(tag => $1, key => $2)

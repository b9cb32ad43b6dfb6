-- Somebody wants these streams to end: see functions/streams.sql.
SELECT stream FROM sync.stop_streams(ids => $1) AS stream

-- Appends to streams: see functions/streams.sql.
SELECT stream FROM sync.append_streams(server => $1, ids => $2, ats => $3, texts => $4) AS stream

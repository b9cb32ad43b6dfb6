-- What streams have from an offset on: see functions/streams.sql.
SELECT stream, user_id::text, kind, row_key, name, since, state, settled, stopping, at, text
FROM sync.read_streams(ids => $1, ats => $2)

-- Opens a stream, or finds the one that is there: see functions/streams.sql.
SELECT stream, fresh, state, since, at, text, problem
FROM sync.open_stream(new_id => $1, owner => $2, tag => $3, key => $4, of_name => $5, restart => $6, most => $7, server => $8)

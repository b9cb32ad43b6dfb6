-- The writers of these streams are there: see functions/streams.sql.
SELECT sync.touch_streams(server => $1, ids => $2)

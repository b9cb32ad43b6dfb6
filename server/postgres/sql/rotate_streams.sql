-- Empties what no stream needs any more: see functions/streams.sql.
SELECT sync.rotate_streams()

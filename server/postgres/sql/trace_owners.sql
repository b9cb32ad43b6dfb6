-- The users whose feeds contain the row. The log is keyed by user, so this reads all of it.
-- $1 the texts of its key. {entry}: tracing.entry
SELECT DISTINCT user_id FROM sync.log l WHERE {entry} LIMIT 10

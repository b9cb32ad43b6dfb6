-- The users whose feeds contain the message. The log is keyed by user, so this reads all of it.
-- $1 the message's id
SELECT DISTINCT user_id FROM sync.log WHERE kind = 'm' AND row_id = $1 LIMIT 10

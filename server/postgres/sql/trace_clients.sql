-- How far each installation of the app has pushed, and which of its mutations were rejected.
-- $1 owner
SELECT client_id, last_mutation, sync.seq_at(pushed_at) AS pushed_at, rejected::text AS rejected
FROM sync.clients WHERE user_id = $1 ORDER BY clients.pushed_at DESC, client_id

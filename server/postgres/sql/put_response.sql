-- Stores a response: see functions/responses.sql.
SELECT created_at, expires_at, version, answered_at
FROM sync.put_response(hash => $1, of_tier => $2, body => $3, seconds => $4, of_tokens => $5, of_cost => $6, of_lease => $7)

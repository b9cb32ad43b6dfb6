-- The response for a key, or the lease to compute it: see functions/responses.sql.
SELECT response, tokens, cost, created_at, expires_at, version, fence, seconds_left, answered_at
FROM sync.take_response(hash => $1, of_tier => $2, seconds => $3)

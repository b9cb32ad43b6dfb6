-- Deletes a response: see functions/responses.sql.
SELECT sync.drop_response(hash => $1, of_tier => $2) AS version

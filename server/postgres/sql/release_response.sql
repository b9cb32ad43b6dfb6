-- Ends a lease without a response: see functions/responses.sql.
SELECT sync.release_response(hash => $1, of_tier => $2, of_lease => $3)

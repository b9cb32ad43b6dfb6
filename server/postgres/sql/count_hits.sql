-- Adds a group of hits: see functions/responses.sql.
SELECT sync.count_hits(of_process => $1, of_number => $2, hashes => $3, tiers => $4, hits => $5)

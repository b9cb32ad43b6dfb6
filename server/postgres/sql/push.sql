-- Applies a group of pushes; see sync.push in migrations/sql/0007_histories.sql.
SELECT before, after, seq, rejected, refusal
FROM sync.push($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)

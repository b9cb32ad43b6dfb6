-- Notes where devices are; see sync.note in migrations/sql/0004_watching.sql.
SELECT sync.note($1, $2, $3, $4, $5, $6, $7, $8)

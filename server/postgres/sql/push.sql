-- Applies a group of pushes: see functions/push.sql.
SELECT before, after, seq, rejected, refusal
FROM sync.push(users => $1, client_ids => $2, sessions => $3, takes => $4, firsts => $5, counts => $6,
               kinds => $7, row_ids => $8, parents => $9, roles => $10, bodies => $11, ats => $12, row_ats => $13,
               writable => $14, generations => $15, helds => $16, digests => $17)

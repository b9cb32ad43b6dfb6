-- Applies a group of pushes: see functions/push.sql.
SELECT before, after, seq, rejected, refusal
FROM sync.push(users => $1, client_ids => $2, sessions => $3, takes => $4, firsts => $5, counts => $6,
               tags => $7::text::text[], ops => $8::text::text[], keys => $9, seconds => $10, patches => $11, ats => $12,
               generations => $13, helds => $14, digests => $15, declared => $16)

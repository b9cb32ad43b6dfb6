-- Applies a group of pushes: see functions/push.sql.
SELECT before, after, seq, rejected, refusal
FROM sync.push(users => $1, client_ids => $2, sessions => $3::text::text[], takes => $4::text::boolean[],
               firsts => $5::text::bigint[], counts => $6::text::int[], tags => $7::text::text[], ops => $8::text::text[],
               keys => $9, seconds => $10, patches => $11, ats => $12, generations => $13::text::bigint[],
               helds => $14::text::bigint[], digests => $15::text::bigint[], declared => $16)

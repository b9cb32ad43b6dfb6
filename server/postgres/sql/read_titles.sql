-- Some of the user's conversations, in the order of $2; and the feed's head in the same snapshot.
-- $1 user, $2 ids
-- $3 bytes in all, 100 a row beside its title. Of a row beyond them only the id is valid (`whole` is false); the first row
--    is whole whatever its size
SELECT coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark, c.id, c.whole,
       CASE WHEN c.whole THEN c.title END AS title, c.created_at, c.updated_at
FROM (SELECT $1::uuid AS user_id) u
LEFT JOIN sync.feeds f ON f.user_id = u.user_id
LEFT JOIN LATERAL (
    SELECT w.i, n.*, row_number() OVER in_order = 1
                     OR sum(100 + coalesce(octet_length(n.title), 0)) OVER in_order <= $3 AS whole
    FROM unnest($2::uuid[]) WITH ORDINALITY AS w (wanted, i)
    CROSS JOIN LATERAL (
        SELECT id, title, created_at, updated_at FROM public.conversations
        WHERE id = w.wanted AND user_id = u.user_id LIMIT 1
    ) n
    WINDOW in_order AS (ORDER BY w.i)
) c ON true
ORDER BY c.i

-- The user's conversations, newest first, after a place in that order; and the feed's head in the same snapshot.
-- $1 user, $2 and $3 the place (NULL: before the newest), $4 rows at most
-- $5 bytes in all, 100 a row beside its title. Of a row beyond them only the id is valid (`whole` is false); the first row
--    is whole whatever its size
SELECT coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark, p.id IS NOT NULL AS has_profile, p.subscription_tier AS tier,
       p.subscription_status AS status, c.id, c.whole, CASE WHEN c.whole THEN c.title END AS title,
       c.created_at, c.updated_at
FROM (SELECT $1::uuid AS user_id) u
LEFT JOIN sync.feeds f ON f.user_id = u.user_id
LEFT JOIN public.profiles p ON p.id = u.user_id
LEFT JOIN LATERAL (
    SELECT n.*, row_number() OVER newest = 1
                OR sum(100 + coalesce(octet_length(n.title), 0)) OVER newest <= $5 AS whole
    FROM (
        SELECT id, title, created_at, updated_at FROM public.conversations
        WHERE user_id = u.user_id AND ($2::timestamptz IS NULL OR (updated_at, id) < ($2, $3::uuid))
        ORDER BY updated_at DESC, id DESC LIMIT $4
    ) n
    WINDOW newest AS (ORDER BY n.updated_at DESC, n.id DESC)
) c ON true
ORDER BY c.updated_at DESC, c.id DESC

-- read_feed.sql, with messages of the archive too: it differs only in the table of messages, and a test compares the two.
-- A live feed does not need the archive, so read_feed.sql does not open and lock its many partitions.
-- The parameters are those of read_feed.sql, without effective bounds in $7, $8 and $9.
SELECT r.i, f.seq AS head, f.mark AS head_mark, p.subscription_tier AS tier, p.subscription_status AS status,
       g.seq, g.n, g.prev, g.mark, g.prev_mark, g.kind::text, g.op::text, g.row_id, g.next_seq,
       g.found, g.elsewhere, g.title, g.conversation_id, g.role, g.content, g.created_at, g.updated_at
FROM unnest($1::text::uuid[], $2::text::bigint[], $3::text::bigint[]) WITH ORDINALITY AS r (user_id, seq, n, i)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles p ON p.id = r.user_id
LEFT JOIN LATERAL (
    SELECT l.seq, l.n, l.prev, l.mark, l.prev_mark, l.kind, l.op, l.row_id,
           coalesce(owner.user_id, c.user_id) = r.user_id AS found, coalesce(l.row_at < $7 OR l.row_at > $8, false) AS elsewhere,
           c.title, m.conversation_id, coalesce(m.role, 'system') AS role, coalesce(m.content, '') AS content,
           coalesce(m.created_at, c.created_at) AS created_at, coalesce(m.updated_at, m.created_at, c.updated_at) AS updated_at,
           lead(l.seq) OVER log_order AS next_seq,
           row_number() OVER log_order AS nth,
           sum(100 + coalesce(octet_length(m.content), octet_length(c.title), 0)) OVER log_order AS bytes
    FROM (
        SELECT * FROM sync.log
        WHERE user_id = r.user_id AND (seq, n) > (r.seq, r.n) AND seq >= r.seq AND seq >= $4 AND seq <= $9
        ORDER BY seq, n LIMIT $5 + 1
    ) l
    LEFT JOIN LATERAL (
        SELECT * FROM public.conversations WHERE l.kind = 'c' AND l.op = 'u' AND id = l.row_id LIMIT 1
    ) c ON true
    LEFT JOIN LATERAL (
        SELECT * FROM sync.all_messages
        WHERE l.kind = 'm' AND l.op = 'u' AND id = l.row_id AND created_at = l.row_at AND created_at >= $7 AND created_at <= $8
        LIMIT 1
    ) m ON true
    LEFT JOIN LATERAL (
        SELECT user_id FROM public.conversations WHERE id = m.conversation_id LIMIT 1
    ) owner ON true
    WINDOW log_order AS (ORDER BY l.seq, l.n)
) g ON g.nth <= $5 AND (g.bytes <= $6 OR g.nth = 1)

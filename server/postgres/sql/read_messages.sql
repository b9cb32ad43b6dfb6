-- Messages of some conversations of a user, newest first in each, after a place in that order; and the feed's head in the
-- same snapshot.
-- $1 user; $2 conversations, $3 and $4 the place in each (infinity: before the newest), $5 rows of each at most
-- $6 bytes in all, 100 a row beside its text; the first row is returned whatever its size. `total`: the number of rows
--    without that bound
-- Messages older than `archived_until` are read from the archive and from messages, whose default partition may hold
-- some. The archive is opened only if the younger messages do not suffice.
SELECT coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark, g.i, g.id, g.conversation_id,
       coalesce(g.role, 'system') AS role, coalesce(g.content, '') AS content, g.created_at, coalesce(g.updated_at, g.created_at) AS updated_at, g.total
FROM (SELECT $1::uuid AS user_id) u
LEFT JOIN sync.feeds f ON f.user_id = u.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total,
           row_number() OVER newest AS nth, sum(100 + coalesce(octet_length(m.content), 0)) OVER newest AS bytes
    FROM unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::int[])
         WITH ORDINALITY AS w (conversation_id, at, id, rows, i)
    JOIN public.conversations c ON c.id = w.conversation_id AND c.user_id = u.user_id
    CROSS JOIN LATERAL (
        (SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages
         WHERE conversation_id = c.id AND (created_at, id) < (w.at, w.id) AND created_at <= w.at
           AND created_at >= (SELECT archived_until FROM sync.meta)
         ORDER BY created_at DESC, id DESC LIMIT w.rows)
        UNION ALL
        (SELECT id, conversation_id, role, content, created_at, updated_at FROM sync.all_messages
         WHERE conversation_id = c.id AND (created_at, id) < (w.at, w.id) AND created_at <= w.at
           AND created_at < (SELECT archived_until FROM sync.meta)
         ORDER BY created_at DESC, id DESC LIMIT w.rows)
        LIMIT w.rows
    ) m
    WINDOW newest AS (ORDER BY w.i, m.created_at DESC, m.id DESC)
) g ON g.bytes <= $6 OR g.nth = 1
ORDER BY g.i, g.created_at DESC, g.id DESC

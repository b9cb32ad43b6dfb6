-- read_feed

-- Reads what up to 256 readers lack: one statement, one snapshot.
-- $1 users, $2 seqs, $3 ns: the position of each reader (n = the largest bigint after a whole transaction), as array
--    literals, which cost asyncpg a tenth of what arrays do
-- $4 the smallest of $2, as an explicit bound, so that older partitions of the log are never opened
-- $5 rows and $6 bytes for each reader at most, 100 a row beside its values; the first row is returned whatever
--    its size
-- $7 and $8 the oldest and the newest instant of rows to read in tables that are partitioned by it, $9 the largest seq:
--    with these bounds all but one or two partitions stay unopened. Rows beyond them are not read: `elsewhere` marks
--    such a row, `head` shows such a log entry, and the caller reads everywhere.
-- `next_seq` is the seq of the following log row, NULL at the end of the log: it shows whether more rows exist, and
-- whether the transaction goes on. `found`: the row still exists and belongs to this user. LIMIT 1 keeps each look-up
-- one by primary key. Rows of all kinds share columns, named by type: a composite value would cost 6 µs more for each
-- row.
SELECT r.i AS i,
       (SELECT digest FROM sync.declaration) AS declared,
       f.seq AS head,
       f.mark AS head_mark,
       q.subscription_tier AS tier,
       g.seq AS seq,
       g.n AS n,
       g.prev AS prev,
       g.mark AS mark,
       g.prev_mark AS prev_mark,
       g.kind::text AS kind,
       g.op::text AS op,
       g.row_id AS row_id,
       g.row_key AS row_key,
       g.next_seq AS next_seq,
       g.elsewhere AS elsewhere,
       g.found AS found,
       g.s1 AS s1,
       g.s2 AS s2,
       g.t1 AS t1,
       g.t2 AS t2,
       g.u1 AS u1
FROM unnest($1::text::uuid[], $2::text::bigint[], $3::text::bigint[]) WITH ORDINALITY AS r (user_id, seq, n, i)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT e.*, lead(e.seq) OVER log_order AS next_seq, row_number() OVER log_order AS nth,
           sum(100 + coalesce(octet_length(e.t1), 0) + coalesce(octet_length(e.t2), 0)) OVER log_order AS bytes
    FROM (
        SELECT l.*, coalesce(l.row_at < $7 OR l.row_at > $8, false) AS elsewhere, k.*
        FROM (
            SELECT * FROM sync.log
            WHERE user_id = r.user_id AND (seq, n) > (r.seq, r.n) AND seq >= r.seq AND seq >= $4 AND seq <= $9
            ORDER BY seq, n LIMIT $5 + 1
        ) l
        LEFT JOIN LATERAL (
            SELECT true AS found, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t.subscription_tier AS t1, t.subscription_status AS t2, NULL::uuid AS u1
            FROM (SELECT t.id, t.subscription_tier, t.subscription_status FROM public.profiles t WHERE t.id = l.row_id LIMIT 1) t
            WHERE l.kind = 'p' AND l.op = 'u' AND t.id = r.user_id
            UNION ALL
            SELECT true AS found, t.created_at AS s1, t.updated_at AS s2, t.title AS t1, NULL::text AS t2, NULL::uuid AS u1
            FROM (SELECT t.id, t.user_id, t.title, t.created_at, t.updated_at FROM public.conversations t WHERE t.id = l.row_id LIMIT 1) t
            WHERE l.kind = 'c' AND l.op = 'u' AND t.user_id = r.user_id
            UNION ALL
            SELECT true AS found, t.created_at AS s1, t.updated_at AS s2, t.role AS t1, t.content AS t2, t.conversation_id AS u1
            FROM (SELECT t.id, t.conversation_id, t.role, t.content, t.created_at, t.updated_at FROM public.messages t WHERE t.id = l.row_id AND t.created_at = l.row_at AND t.created_at >= $7 AND t.created_at <= $8 LIMIT 1) t
            WHERE l.kind = 'm' AND l.op = 'u' AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = r.user_id
        ) k ON true
    ) e
    WINDOW log_order AS (ORDER BY e.seq, e.n)
) g ON g.nth <= $5 AND (g.bytes <= $6 OR g.nth = 1)

-- read_feed_everywhere

-- Reads what up to 256 readers lack: one statement, one snapshot.
-- $1 users, $2 seqs, $3 ns: the position of each reader (n = the largest bigint after a whole transaction), as array
--    literals, which cost asyncpg a tenth of what arrays do
-- $4 the smallest of $2, as an explicit bound, so that older partitions of the log are never opened
-- $5 rows and $6 bytes for each reader at most, 100 a row beside its values; the first row is returned whatever
--    its size
-- $7 and $8 the oldest and the newest instant of rows to read in tables that are partitioned by it, $9 the largest seq:
--    with these bounds all but one or two partitions stay unopened. Rows beyond them are not read: `elsewhere` marks
--    such a row, `head` shows such a log entry, and the caller reads everywhere.
-- `next_seq` is the seq of the following log row, NULL at the end of the log: it shows whether more rows exist, and
-- whether the transaction goes on. `found`: the row still exists and belongs to this user. LIMIT 1 keeps each look-up
-- one by primary key. Rows of all kinds share columns, named by type: a composite value would cost 6 µs more for each
-- row.
SELECT r.i AS i,
       (SELECT digest FROM sync.declaration) AS declared,
       f.seq AS head,
       f.mark AS head_mark,
       q.subscription_tier AS tier,
       g.seq AS seq,
       g.n AS n,
       g.prev AS prev,
       g.mark AS mark,
       g.prev_mark AS prev_mark,
       g.kind::text AS kind,
       g.op::text AS op,
       g.row_id AS row_id,
       g.row_key AS row_key,
       g.next_seq AS next_seq,
       g.elsewhere AS elsewhere,
       g.found AS found,
       g.s1 AS s1,
       g.s2 AS s2,
       g.t1 AS t1,
       g.t2 AS t2,
       g.u1 AS u1
FROM unnest($1::text::uuid[], $2::text::bigint[], $3::text::bigint[]) WITH ORDINALITY AS r (user_id, seq, n, i)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT e.*, lead(e.seq) OVER log_order AS next_seq, row_number() OVER log_order AS nth,
           sum(100 + coalesce(octet_length(e.t1), 0) + coalesce(octet_length(e.t2), 0)) OVER log_order AS bytes
    FROM (
        SELECT l.*, coalesce(l.row_at < $7 OR l.row_at > $8, false) AS elsewhere, k.*
        FROM (
            SELECT * FROM sync.log
            WHERE user_id = r.user_id AND (seq, n) > (r.seq, r.n) AND seq >= r.seq AND seq >= $4 AND seq <= $9
            ORDER BY seq, n LIMIT $5 + 1
        ) l
        LEFT JOIN LATERAL (
            SELECT true AS found, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t.subscription_tier AS t1, t.subscription_status AS t2, NULL::uuid AS u1
            FROM (SELECT t.id, t.subscription_tier, t.subscription_status FROM public.profiles t WHERE t.id = l.row_id LIMIT 1) t
            WHERE l.kind = 'p' AND l.op = 'u' AND t.id = r.user_id
            UNION ALL
            SELECT true AS found, t.created_at AS s1, t.updated_at AS s2, t.title AS t1, NULL::text AS t2, NULL::uuid AS u1
            FROM (SELECT t.id, t.user_id, t.title, t.created_at, t.updated_at FROM public.conversations t WHERE t.id = l.row_id LIMIT 1) t
            WHERE l.kind = 'c' AND l.op = 'u' AND t.user_id = r.user_id
            UNION ALL
            SELECT true AS found, t.created_at AS s1, t.updated_at AS s2, t.role AS t1, t.content AS t2, t.conversation_id AS u1
            FROM (SELECT t.id, t.conversation_id, t.role, t.content, t.created_at, t.updated_at FROM sync.all_messages t WHERE t.id = l.row_id AND t.created_at = l.row_at AND t.created_at >= $7 AND t.created_at <= $8 LIMIT 1) t
            WHERE l.kind = 'm' AND l.op = 'u' AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = r.user_id
        ) k ON true
    ) e
    WINDOW log_order AS (ORDER BY e.seq, e.n)
) g ON g.nth <= $5 AND (g.bytes <= $6 OR g.nth = 1)

-- read_live

-- Reads what one live reader lacks, which is little: one statement, one snapshot.
-- $1 user, $2 the seq of its position, which is behind a whole transaction
-- $3 and $4 the oldest and the newest instant of rows, $5 the largest seq: as $7, $8 and $9 of read_feed
SELECT (SELECT digest FROM sync.declaration) = '5ac6cd90a1dfc3f9', l.row_at < $3 OR l.row_at > $4, k.found, l.seq, l.n, l.prev, l.mark, l.prev_mark, l.kind, l.op, l.row_id, l.row_key, k.s1, k.s2, k.t1, k.t2, k.u1
FROM (SELECT * FROM sync.log WHERE user_id = $1 AND seq > $2 AND seq <= $5 ORDER BY seq, n LIMIT 9) l
LEFT JOIN LATERAL (
            SELECT true AS found, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t.subscription_tier AS t1, t.subscription_status AS t2, NULL::uuid AS u1
            FROM (SELECT t.id, t.subscription_tier, t.subscription_status FROM public.profiles t WHERE t.id = l.row_id LIMIT 1) t
            WHERE l.kind = 'p' AND l.op = 'u' AND t.id = $1
            UNION ALL
            SELECT true AS found, t.created_at AS s1, t.updated_at AS s2, t.title AS t1, NULL::text AS t2, NULL::uuid AS u1
            FROM (SELECT t.id, t.user_id, t.title, t.created_at, t.updated_at FROM public.conversations t WHERE t.id = l.row_id LIMIT 1) t
            WHERE l.kind = 'c' AND l.op = 'u' AND t.user_id = $1
            UNION ALL
            SELECT true AS found, t.created_at AS s1, t.updated_at AS s2, t.role AS t1, t.content AS t2, t.conversation_id AS u1
            FROM (SELECT t.id, t.conversation_id, t.role, t.content, t.created_at, t.updated_at FROM public.messages t WHERE t.id = l.row_id AND t.created_at = l.row_at AND t.created_at >= $3 AND t.created_at <= $4 LIMIT 1) t
            WHERE l.kind = 'm' AND l.op = 'u' AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = $1
) k ON true

-- list_profile

-- Rows of kind profile: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 NULL, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       q.subscription_tier AS tier, g.i, g.key, g.total, g.v1, g.v2
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0) + coalesce(octet_length(m.v2), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::int[]) WITH ORDINALITY AS w (rows, parent, p1, before, i)
    CROSS JOIN LATERAL (
        SELECT t.id AS key, t.subscription_tier AS v1, t.subscription_status AS v2, t.id AS o1
        FROM public.profiles t
        WHERE t.id = r.user_id AND (t.id, 0) < ((w.p1)::uuid, w.before)
        ORDER BY t.id DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC

-- lists_profile

-- Rows of kind profile: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 NULL, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       q.subscription_tier AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0) + coalesce(octet_length(m.v2), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, before, i)
    CROSS JOIN LATERAL (
        SELECT t.id AS key, t.subscription_tier AS v1, t.subscription_status AS v2, t.id AS o1
        FROM public.profiles t
        WHERE t.id = r.user_id AND (t.id, 0) < ((w.p1)::uuid, w.before)
        ORDER BY t.id DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC

-- list_conversation

-- Rows of kind conversation: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 NULL, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       q.subscription_tier AS tier, g.i, g.key, g.total, g.v1, g.v2, g.v3
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (rows, parent, p1, p2, before, i)
    CROSS JOIN LATERAL (
        SELECT t.id AS key, t.title AS v1, t.created_at AS v2, t.updated_at AS v3, t.updated_at AS o1, t.id AS o2
        FROM public.conversations t
        WHERE t.user_id = r.user_id AND (t.updated_at, t.id, 0) < (sync.instant(w.p1), (w.p2)::uuid, w.before) AND t.updated_at <= sync.instant(w.p1)
        ORDER BY t.updated_at DESC, t.id DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC, g.o2 DESC

-- lists_conversation

-- Rows of kind conversation: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 NULL, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       q.subscription_tier AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2, g.v3
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, p2, before, i)
    CROSS JOIN LATERAL (
        SELECT t.id AS key, t.title AS v1, t.created_at AS v2, t.updated_at AS v3, t.updated_at AS o1, t.id AS o2
        FROM public.conversations t
        WHERE t.user_id = r.user_id AND (t.updated_at, t.id, 0) < (sync.instant(w.p1), (w.p2)::uuid, w.before) AND t.updated_at <= sync.instant(w.p1)
        ORDER BY t.updated_at DESC, t.id DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC, g.o2 DESC

-- instant_conversation

-- The exact instant by which a row is ordered, for a device that knows only an end of the range that it can
-- hold: microseconds since 1970, as text, because they may exceed a bigint; NULL for an infinite instant.
-- $1 user, $2 and $3 the range in which it lies, $4 … the key
SELECT CASE WHEN isfinite(t.updated_at) THEN trunc(EXTRACT(epoch FROM t.updated_at) * 1000000)::text END AS instant,
       t.updated_at > now() AS ahead
FROM public.conversations t
WHERE t.id = ($4::text)::uuid AND t.updated_at BETWEEN $2 AND $3 AND t.user_id = $1::uuid
ORDER BY t.updated_at LIMIT 1

-- list_message

-- Rows of kind message: those of some rows of kind conversation, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 the parent's key, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       q.subscription_tier AS tier, g.i, g.key, g.total, g.v1, g.v2, g.v3, g.v4, g.v5
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v2), 0) + coalesce(octet_length(m.v3), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (rows, parent, p1, p2, before, i)
    JOIN public.conversations o ON o.id = w.parent::uuid AND o.user_id = r.user_id
    CROSS JOIN LATERAL (
        (
        SELECT t.id AS key, t.conversation_id AS v1, t.role AS v2, t.content AS v3, t.created_at AS v4, t.updated_at AS v5, t.created_at AS o1, t.id AS o2
        FROM public.messages t
        WHERE t.conversation_id = o.id AND (t.created_at, t.id, 0) < (sync.instant(w.p1), (w.p2)::uuid, w.before) AND t.created_at <= sync.instant(w.p1) AND t.created_at >= (SELECT archived_until FROM sync.meta)
        ORDER BY t.created_at DESC, t.id DESC LIMIT w.rows
        )
        UNION ALL
        (
        SELECT t.id AS key, t.conversation_id AS v1, t.role AS v2, t.content AS v3, t.created_at AS v4, t.updated_at AS v5, t.created_at AS o1, t.id AS o2
        FROM sync.all_messages t
        WHERE t.conversation_id = o.id AND (t.created_at, t.id, 0) < (sync.instant(w.p1), (w.p2)::uuid, w.before) AND t.created_at <= sync.instant(w.p1) AND t.created_at < (SELECT archived_until FROM sync.meta)
        ORDER BY t.created_at DESC, t.id DESC LIMIT w.rows
        )
        LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC, g.o2 DESC

-- lists_message

-- Rows of kind message: those of some rows of kind conversation, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 the parent's key, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       q.subscription_tier AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2, g.v3, g.v4, g.v5
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN public.profiles q ON q.id = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v2), 0) + coalesce(octet_length(m.v3), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, p2, before, i)
    JOIN public.conversations o ON o.id = w.parent::uuid AND o.user_id = r.user_id
    CROSS JOIN LATERAL (
        (
        SELECT t.id AS key, t.conversation_id AS v1, t.role AS v2, t.content AS v3, t.created_at AS v4, t.updated_at AS v5, t.created_at AS o1, t.id AS o2
        FROM public.messages t
        WHERE t.conversation_id = o.id AND (t.created_at, t.id, 0) < (sync.instant(w.p1), (w.p2)::uuid, w.before) AND t.created_at <= sync.instant(w.p1) AND t.created_at >= (SELECT archived_until FROM sync.meta)
        ORDER BY t.created_at DESC, t.id DESC LIMIT w.rows
        )
        UNION ALL
        (
        SELECT t.id AS key, t.conversation_id AS v1, t.role AS v2, t.content AS v3, t.created_at AS v4, t.updated_at AS v5, t.created_at AS o1, t.id AS o2
        FROM sync.all_messages t
        WHERE t.conversation_id = o.id AND (t.created_at, t.id, 0) < (sync.instant(w.p1), (w.p2)::uuid, w.before) AND t.created_at <= sync.instant(w.p1) AND t.created_at < (SELECT archived_until FROM sync.meta)
        ORDER BY t.created_at DESC, t.id DESC LIMIT w.rows
        )
        LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC, g.o2 DESC

-- instant_message

-- The exact instant by which a row is ordered, for a device that knows only an end of the range that it can
-- hold: microseconds since 1970, as text, because they may exceed a bigint; NULL for an infinite instant.
-- $1 user, $2 and $3 the range in which it lies, $4 … the key
SELECT CASE WHEN isfinite(t.created_at) THEN trunc(EXTRACT(epoch FROM t.created_at) * 1000000)::text END AS instant,
       t.created_at > now() AS ahead
FROM sync.all_messages t
WHERE t.id = ($4::text)::uuid AND t.created_at BETWEEN $2 AND $3 AND (SELECT p1.user_id FROM public.conversations p1 WHERE p1.id = t.conversation_id) = $1::uuid
ORDER BY t.created_at LIMIT 1

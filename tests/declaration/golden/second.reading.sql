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
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier,
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
       g.b1 AS b1,
       g.f1 AS f1,
       g.f2 AS f2,
       g.i1 AS i1,
       g.i2 AS i2,
       g.s1 AS s1,
       g.s2 AS s2,
       g.t1 AS t1,
       g.t2 AS t2,
       g.t3 AS t3,
       g.t4 AS t4,
       g.t5 AS t5,
       g.t6 AS t6,
       g.t7 AS t7,
       g.t8 AS t8,
       g.t9 AS t9,
       g.u1 AS u1,
       g.y1 AS y1
FROM unnest($1::text::uuid[], $2::text::bigint[], $3::text::bigint[]) WITH ORDINALITY AS r (user_id, seq, n, i)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT e.*, lead(e.seq) OVER log_order AS next_seq, row_number() OVER log_order AS nth,
           sum(100 + coalesce(octet_length(e.t1), 0) + coalesce(octet_length(e.t2), 0) + coalesce(octet_length(e.t3), 0) + coalesce(octet_length(e.t4), 0) + coalesce(octet_length(e.t5), 0) + coalesce(octet_length(e.t6), 0) + coalesce(octet_length(e.t7), 0) + coalesce(octet_length(e.t8), 0) + coalesce(octet_length(e.t9), 0) + coalesce(octet_length(e.y1), 0)) OVER log_order AS bytes
    FROM (
        SELECT l.*, coalesce(l.row_at < $7 OR l.row_at > $8, false) AS elsewhere, k.*
        FROM (
            SELECT * FROM sync.log
            WHERE user_id = r.user_id AND (seq, n) > (r.seq, r.n) AND seq >= r.seq AND seq >= $4 AND seq <= $9
            ORDER BY seq, n LIMIT $5 + 1
        ) l
        LEFT JOIN LATERAL (
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, NULL::bigint AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t.plan::text AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t.number, t."user", t.plan FROM library.account t WHERE t.number = (l.row_key[1])::integer LIMIT 1) t
            WHERE l.kind = 'a' AND l.op = 'u' AND t."user" = r.user_id
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t."position"::bigint AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t."the name"::text AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t."Code", t."Owner", t."the name", t."position" FROM public."Shelf" t WHERE t."Code" = l.row_key[1] LIMIT 1) t
            WHERE l.kind = 's' AND l.op = 'u' AND t."Owner" = r.user_id::text
            UNION ALL
            SELECT true AS found, t.lent AS b1, t.rating::text::float8 AS f1, t.score AS f2, t.pages::bigint AS i1, t.isbn AS i2, timezone('UTC', t.added_at) AS s1, t.edited_at AS s2, t.shelf AS t1, t.title::text AS t2, t.price::text AS t3, to_json(t.read_on) #>> '{}' AS t4, t.meta::text AS t5, t.source::text AS t6, to_json(t.tags)::text AS t7, to_json(t.loans::text[])::text AS t8, t.mood::text AS t9, t.borrower AS u1, t.cover AS y1
            FROM (SELECT t.id, t.shelf, t.title, t.price, t.read_on, t.meta, t.source, t.tags, t.loans, t.mood, t.rating, t.score, t.pages, t.isbn, t.added_at, t.edited_at, t.cover, t.borrower, t.lent FROM library.book t WHERE t.id = (l.row_key[1])::bigint LIMIT 1) t
            WHERE l.kind = 'b' AND l.op = 'u' AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = r.user_id
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t.book AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, (SELECT a.shelf FROM library.book a WHERE a.id = t.book) AS t1, t.note AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t.book, t.page, t.note FROM library.mark t WHERE t.book = (l.row_key[1])::bigint AND t.page = (l.row_key[2])::integer LIMIT 1) t
            WHERE l.kind = 'M' AND l.op = 'u' AND (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = t.book) = r.user_id
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t.rank AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, to_json(t.since) #>> '{}' AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t."user", t.author, t.rank, t.since FROM library.follow t WHERE t."user" = (l.row_key[1])::uuid AND t.author = l.row_key[2] LIMIT 1) t
            WHERE l.kind = '0' AND l.op = 'u' AND t."user" = r.user_id
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
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier,
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
       g.b1 AS b1,
       g.f1 AS f1,
       g.f2 AS f2,
       g.i1 AS i1,
       g.i2 AS i2,
       g.s1 AS s1,
       g.s2 AS s2,
       g.t1 AS t1,
       g.t2 AS t2,
       g.t3 AS t3,
       g.t4 AS t4,
       g.t5 AS t5,
       g.t6 AS t6,
       g.t7 AS t7,
       g.t8 AS t8,
       g.t9 AS t9,
       g.u1 AS u1,
       g.y1 AS y1
FROM unnest($1::text::uuid[], $2::text::bigint[], $3::text::bigint[]) WITH ORDINALITY AS r (user_id, seq, n, i)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT e.*, lead(e.seq) OVER log_order AS next_seq, row_number() OVER log_order AS nth,
           sum(100 + coalesce(octet_length(e.t1), 0) + coalesce(octet_length(e.t2), 0) + coalesce(octet_length(e.t3), 0) + coalesce(octet_length(e.t4), 0) + coalesce(octet_length(e.t5), 0) + coalesce(octet_length(e.t6), 0) + coalesce(octet_length(e.t7), 0) + coalesce(octet_length(e.t8), 0) + coalesce(octet_length(e.t9), 0) + coalesce(octet_length(e.y1), 0)) OVER log_order AS bytes
    FROM (
        SELECT l.*, coalesce(l.row_at < $7 OR l.row_at > $8, false) AS elsewhere, k.*
        FROM (
            SELECT * FROM sync.log
            WHERE user_id = r.user_id AND (seq, n) > (r.seq, r.n) AND seq >= r.seq AND seq >= $4 AND seq <= $9
            ORDER BY seq, n LIMIT $5 + 1
        ) l
        LEFT JOIN LATERAL (
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, NULL::bigint AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t.plan::text AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t.number, t."user", t.plan FROM library.account t WHERE t.number = (l.row_key[1])::integer LIMIT 1) t
            WHERE l.kind = 'a' AND l.op = 'u' AND t."user" = r.user_id
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t."position"::bigint AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t."the name"::text AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t."Code", t."Owner", t."the name", t."position" FROM public."Shelf" t WHERE t."Code" = l.row_key[1] LIMIT 1) t
            WHERE l.kind = 's' AND l.op = 'u' AND t."Owner" = r.user_id::text
            UNION ALL
            SELECT true AS found, t.lent AS b1, t.rating::text::float8 AS f1, t.score AS f2, t.pages::bigint AS i1, t.isbn AS i2, timezone('UTC', t.added_at) AS s1, t.edited_at AS s2, t.shelf AS t1, t.title::text AS t2, t.price::text AS t3, to_json(t.read_on) #>> '{}' AS t4, t.meta::text AS t5, t.source::text AS t6, to_json(t.tags)::text AS t7, to_json(t.loans::text[])::text AS t8, t.mood::text AS t9, t.borrower AS u1, t.cover AS y1
            FROM (SELECT t.id, t.shelf, t.title, t.price, t.read_on, t.meta, t.source, t.tags, t.loans, t.mood, t.rating, t.score, t.pages, t.isbn, t.added_at, t.edited_at, t.cover, t.borrower, t.lent FROM library.book t WHERE t.id = (l.row_key[1])::bigint LIMIT 1) t
            WHERE l.kind = 'b' AND l.op = 'u' AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = r.user_id
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t.book AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, (SELECT a.shelf FROM library.book a WHERE a.id = t.book) AS t1, t.note AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t.book, t.page, t.note FROM library.mark t WHERE t.book = (l.row_key[1])::bigint AND t.page = (l.row_key[2])::integer LIMIT 1) t
            WHERE l.kind = 'M' AND l.op = 'u' AND (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = t.book) = r.user_id
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t.rank AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, to_json(t.since) #>> '{}' AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t."user", t.author, t.rank, t.since FROM library.follow t WHERE t."user" = (l.row_key[1])::uuid AND t.author = l.row_key[2] LIMIT 1) t
            WHERE l.kind = '0' AND l.op = 'u' AND t."user" = r.user_id
        ) k ON true
    ) e
    WINDOW log_order AS (ORDER BY e.seq, e.n)
) g ON g.nth <= $5 AND (g.bytes <= $6 OR g.nth = 1)

-- read_live

-- Reads what one live reader lacks, which is little: one statement, one snapshot.
-- $1 user, $2 the seq of its position, which is behind a whole transaction
-- $3 and $4 the oldest and the newest instant of rows, $5 the largest seq: as $7, $8 and $9 of read_feed
SELECT (SELECT digest FROM sync.declaration) = '352d73ce2d875a93', l.row_at < $3 OR l.row_at > $4, k.found, l.seq, l.n, l.prev, l.mark, l.prev_mark, l.kind, l.op, l.row_id, l.row_key, k.b1, k.f1, k.f2, k.i1, k.i2, k.s1, k.s2, k.t1, k.t2, k.t3, k.t4, k.t5, k.t6, k.t7, k.t8, k.t9, k.u1, k.y1
FROM (SELECT * FROM sync.log WHERE user_id = $1 AND seq > $2 AND seq <= $5 ORDER BY seq, n LIMIT 9) l
LEFT JOIN LATERAL (
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, NULL::bigint AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t.plan::text AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t.number, t."user", t.plan FROM library.account t WHERE t.number = (l.row_key[1])::integer LIMIT 1) t
            WHERE l.kind = 'a' AND l.op = 'u' AND t."user" = $1
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t."position"::bigint AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, t."the name"::text AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t."Code", t."Owner", t."the name", t."position" FROM public."Shelf" t WHERE t."Code" = l.row_key[1] LIMIT 1) t
            WHERE l.kind = 's' AND l.op = 'u' AND t."Owner" = $1::text
            UNION ALL
            SELECT true AS found, t.lent AS b1, t.rating::text::float8 AS f1, t.score AS f2, t.pages::bigint AS i1, t.isbn AS i2, timezone('UTC', t.added_at) AS s1, t.edited_at AS s2, t.shelf AS t1, t.title::text AS t2, t.price::text AS t3, to_json(t.read_on) #>> '{}' AS t4, t.meta::text AS t5, t.source::text AS t6, to_json(t.tags)::text AS t7, to_json(t.loans::text[])::text AS t8, t.mood::text AS t9, t.borrower AS u1, t.cover AS y1
            FROM (SELECT t.id, t.shelf, t.title, t.price, t.read_on, t.meta, t.source, t.tags, t.loans, t.mood, t.rating, t.score, t.pages, t.isbn, t.added_at, t.edited_at, t.cover, t.borrower, t.lent FROM library.book t WHERE t.id = (l.row_key[1])::bigint LIMIT 1) t
            WHERE l.kind = 'b' AND l.op = 'u' AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = $1
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t.book AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, (SELECT a.shelf FROM library.book a WHERE a.id = t.book) AS t1, t.note AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t.book, t.page, t.note FROM library.mark t WHERE t.book = (l.row_key[1])::bigint AND t.page = (l.row_key[2])::integer LIMIT 1) t
            WHERE l.kind = 'M' AND l.op = 'u' AND (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = t.book) = $1
            UNION ALL
            SELECT true AS found, NULL::boolean AS b1, NULL::float8 AS f1, NULL::float8 AS f2, t.rank AS i1, NULL::bigint AS i2, NULL::timestamptz AS s1, NULL::timestamptz AS s2, to_json(t.since) #>> '{}' AS t1, NULL::text AS t2, NULL::text AS t3, NULL::text AS t4, NULL::text AS t5, NULL::text AS t6, NULL::text AS t7, NULL::text AS t8, NULL::text AS t9, NULL::uuid AS u1, NULL::bytea AS y1
            FROM (SELECT t."user", t.author, t.rank, t.since FROM library.follow t WHERE t."user" = (l.row_key[1])::uuid AND t.author = l.row_key[2] LIMIT 1) t
            WHERE l.kind = '0' AND l.op = 'u' AND t."user" = $1
) k ON true

-- list_account

-- Rows of kind account: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 NULL, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, g.v1
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::int[]) WITH ORDINALITY AS w (rows, parent, p1, before, i)
    CROSS JOIN LATERAL (
        SELECT ARRAY[t.number::text] AS key, t.plan::text AS v1, t.number AS o1
        FROM library.account t
        WHERE t."user" = r.user_id AND (t.number, 0) < ((w.p1)::integer, w.before)
        ORDER BY t.number DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC

-- lists_account

-- Rows of kind account: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 NULL, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, r.number, g.v1
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, before, i)
    CROSS JOIN LATERAL (
        SELECT ARRAY[t.number::text] AS key, t.plan::text AS v1, t.number AS o1
        FROM library.account t
        WHERE t."user" = r.user_id AND (t.number, 0) < ((w.p1)::integer, w.before)
        ORDER BY t.number DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC

-- list_shelf

-- Rows of kind shelf: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 NULL, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, g.v1, g.v2
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (rows, parent, p1, p2, before, i)
    CROSS JOIN LATERAL (
        SELECT ARRAY[t."Code"::text] AS key, t."the name"::text AS v1, t."position" AS v2, t."position" AS o1, (t."Code"::text COLLATE "C") AS o2
        FROM public."Shelf" t
        WHERE t."Owner" = r.user_id::text AND (t."position", (t."Code"::text COLLATE "C"), 0) < ((w.p1)::smallint, (w.p2 COLLATE "C"), w.before) AND t."position" <= (w.p1)::smallint
        ORDER BY t."position" DESC, (t."Code"::text COLLATE "C") DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC, g.o2 DESC

-- lists_shelf

-- Rows of kind shelf: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 NULL, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, p2, before, i)
    CROSS JOIN LATERAL (
        SELECT ARRAY[t."Code"::text] AS key, t."the name"::text AS v1, t."position" AS v2, t."position" AS o1, (t."Code"::text COLLATE "C") AS o2
        FROM public."Shelf" t
        WHERE t."Owner" = r.user_id::text AND (t."position", (t."Code"::text COLLATE "C"), 0) < ((w.p1)::smallint, (w.p2 COLLATE "C"), w.before) AND t."position" <= (w.p1)::smallint
        ORDER BY t."position" DESC, (t."Code"::text COLLATE "C") DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC, g.o2 DESC

-- list_book

-- Rows of kind book: those of some rows of kind shelf, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 the parent's key, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, g.v1, g.v2, g.v3, g.v4, g.v5, g.v6, g.v7, g.v8, g.v9, g.v10, g.v11, g.v12, g.v13, g.v14, g.v15, g.v16, g.v17, g.v18
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0) + coalesce(octet_length(m.v2), 0) + coalesce(octet_length(m.v3), 0) + coalesce(octet_length(m.v4), 0) + coalesce(octet_length(m.v5), 0) + coalesce(octet_length(m.v6), 0) + coalesce(octet_length(m.v7), 0) + coalesce(octet_length(m.v8), 0) + coalesce(octet_length(m.v9), 0) + coalesce(octet_length(m.v16), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (rows, parent, p1, p2, before, i)
    JOIN public."Shelf" o ON o."Code" = w.parent::text AND o."Owner" = r.user_id::text
    CROSS JOIN LATERAL (
        SELECT ARRAY[t.id::text] AS key, t.shelf AS v1, t.title::text AS v2, t.price::text AS v3, to_json(t.read_on) #>> '{}' AS v4, t.meta::text AS v5, t.source::text AS v6, to_json(t.tags)::text AS v7, to_json(t.loans::text[])::text AS v8, t.mood::text AS v9, t.rating::text::float8 AS v10, t.score AS v11, t.pages AS v12, t.isbn AS v13, timezone('UTC', t.added_at) AS v14, t.edited_at AS v15, t.cover AS v16, t.borrower AS v17, t.lent AS v18, t.added_at IS NOT NULL AS o1, coalesce(t.added_at, '-infinity'::timestamp without time zone) AS o2, t.id AS o3
        FROM library.book t
        WHERE t.shelf = o."Code" AND (t.added_at IS NOT NULL, coalesce(t.added_at, '-infinity'::timestamp without time zone), t.id, 0) < (w.p1 IS NOT NULL, coalesce(pg_catalog.timezone('UTC', sync.instant(w.p1)), '-infinity'::timestamp without time zone), (w.p2)::bigint, w.before) AND (t.added_at IS NOT NULL, coalesce(t.added_at, '-infinity'::timestamp without time zone)) <= (w.p1 IS NOT NULL, coalesce(pg_catalog.timezone('UTC', sync.instant(w.p1)), '-infinity'::timestamp without time zone))
        ORDER BY t.added_at IS NOT NULL DESC, coalesce(t.added_at, '-infinity'::timestamp without time zone) DESC, t.id DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC, m.o3 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC, g.o2 DESC, g.o3 DESC

-- lists_book

-- Rows of kind book: those of some rows of kind shelf, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 the parent's key, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2, g.v3, g.v4, g.v5, g.v6, g.v7, g.v8, g.v9, g.v10, g.v11, g.v12, g.v13, g.v14, g.v15, g.v16, g.v17, g.v18
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v1), 0) + coalesce(octet_length(m.v2), 0) + coalesce(octet_length(m.v3), 0) + coalesce(octet_length(m.v4), 0) + coalesce(octet_length(m.v5), 0) + coalesce(octet_length(m.v6), 0) + coalesce(octet_length(m.v7), 0) + coalesce(octet_length(m.v8), 0) + coalesce(octet_length(m.v9), 0) + coalesce(octet_length(m.v16), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, p2, before, i)
    JOIN public."Shelf" o ON o."Code" = w.parent::text AND o."Owner" = r.user_id::text
    CROSS JOIN LATERAL (
        SELECT ARRAY[t.id::text] AS key, t.shelf AS v1, t.title::text AS v2, t.price::text AS v3, to_json(t.read_on) #>> '{}' AS v4, t.meta::text AS v5, t.source::text AS v6, to_json(t.tags)::text AS v7, to_json(t.loans::text[])::text AS v8, t.mood::text AS v9, t.rating::text::float8 AS v10, t.score AS v11, t.pages AS v12, t.isbn AS v13, timezone('UTC', t.added_at) AS v14, t.edited_at AS v15, t.cover AS v16, t.borrower AS v17, t.lent AS v18, t.added_at IS NOT NULL AS o1, coalesce(t.added_at, '-infinity'::timestamp without time zone) AS o2, t.id AS o3
        FROM library.book t
        WHERE t.shelf = o."Code" AND (t.added_at IS NOT NULL, coalesce(t.added_at, '-infinity'::timestamp without time zone), t.id, 0) < (w.p1 IS NOT NULL, coalesce(pg_catalog.timezone('UTC', sync.instant(w.p1)), '-infinity'::timestamp without time zone), (w.p2)::bigint, w.before) AND (t.added_at IS NOT NULL, coalesce(t.added_at, '-infinity'::timestamp without time zone)) <= (w.p1 IS NOT NULL, coalesce(pg_catalog.timezone('UTC', sync.instant(w.p1)), '-infinity'::timestamp without time zone))
        ORDER BY t.added_at IS NOT NULL DESC, coalesce(t.added_at, '-infinity'::timestamp without time zone) DESC, t.id DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC, m.o3 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC, g.o2 DESC, g.o3 DESC

-- instant_book

-- The exact instant by which a row is ordered, for a device that knows only an end of the range that it can
-- hold: microseconds since 1970, as text, because they may exceed a bigint; NULL for an infinite instant.
-- $1 user, $2 and $3 the range in which it lies, $4 … the key
SELECT CASE WHEN isfinite(timezone('UTC', t.added_at)) THEN trunc(EXTRACT(epoch FROM timezone('UTC', t.added_at)) * 1000000)::text END AS instant,
       timezone('UTC', t.added_at) > now() AS ahead
FROM library.book t
WHERE t.id = ($4::text)::bigint AND timezone('UTC', t.added_at) BETWEEN $2 AND $3 AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = $1::uuid
ORDER BY timezone('UTC', t.added_at) LIMIT 1

-- list_mark

-- Rows of kind mark: those of some rows of kind book, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 the parent's key, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, g.v1, g.v2, g.v3
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v2), 0) + coalesce(octet_length(m.v3), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::int[]) WITH ORDINALITY AS w (rows, parent, p1, p2, before, i)
    JOIN library.book o ON o.id = w.parent::bigint AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = o.shelf) = r.user_id
    CROSS JOIN LATERAL (
        SELECT ARRAY[t.book::text, t.page::text] AS key, t.book AS v1, (SELECT a.shelf FROM library.book a WHERE a.id = t.book) AS v2, t.note AS v3, t.book AS o1, t.page AS o2
        FROM library.mark t
        WHERE t.book = o.id AND (t.book, t.page, 0) < ((w.p1)::bigint, (w.p2)::integer, w.before) AND t.book <= (w.p1)::bigint
        ORDER BY t.book DESC, t.page DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC, g.o2 DESC

-- lists_mark

-- Rows of kind mark: those of some rows of kind book, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 the parent's key, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2, g.v3
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v2), 0) + coalesce(octet_length(m.v3), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, p2, before, i)
    JOIN library.book o ON o.id = w.parent::bigint AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = o.shelf) = r.user_id
    CROSS JOIN LATERAL (
        SELECT ARRAY[t.book::text, t.page::text] AS key, t.book AS v1, (SELECT a.shelf FROM library.book a WHERE a.id = t.book) AS v2, t.note AS v3, t.book AS o1, t.page AS o2
        FROM library.mark t
        WHERE t.book = o.id AND (t.book, t.page, 0) < ((w.p1)::bigint, (w.p2)::integer, w.before) AND t.book <= (w.p1)::bigint
        ORDER BY t.book DESC, t.page DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC, g.o2 DESC

-- list_follow

-- Rows of kind follow: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 user, $2 bytes in all, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 rows at most, $4 NULL, $5 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, g.v1, g.v2
FROM (SELECT $1::uuid AS user_id) r
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v2), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[]) WITH ORDINALITY AS w (rows, parent, p1, p2, p3, before, i)
    CROSS JOIN LATERAL (
        SELECT ARRAY[t."user"::text, t.author::text] AS key, t.rank AS v1, to_json(t.since) #>> '{}' AS v2, t.rank IS NOT NULL AS o1, coalesce(t.rank, '-9223372036854775808'::bigint) AS o2, t."user" AS o3, (t.author::text COLLATE "C") AS o4
        FROM library.follow t
        WHERE t."user" = r.user_id AND (t.rank IS NOT NULL, coalesce(t.rank, '-9223372036854775808'::bigint), t."user", (t.author::text COLLATE "C"), 0) < (w.p1 IS NOT NULL, coalesce((w.p1)::bigint, '-9223372036854775808'::bigint), (w.p2)::uuid, (w.p3 COLLATE "C"), w.before) AND (t.rank IS NOT NULL, coalesce(t.rank, '-9223372036854775808'::bigint)) <= (w.p1 IS NOT NULL, coalesce((w.p1)::bigint, '-9223372036854775808'::bigint))
        ORDER BY t.rank IS NOT NULL DESC, coalesce(t.rank, '-9223372036854775808'::bigint) DESC, t."user" DESC, (t.author::text COLLATE "C") DESC LIMIT w.rows
    ) m
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC, m.o3 DESC, m.o4 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY g.i, g.o1 DESC, g.o2 DESC, g.o3 DESC, g.o4 DESC

-- lists_follow

-- Rows of kind follow: the user's, newest first, after a place in that order; and the feed's head in the same
-- snapshot.
-- $1 users, as an array literal, $2 bytes for each, 100 a row beside its values; the first row is returned whatever its size.
--    `total`: the number of rows without that bound
-- of each list: $3 the number of its user, $4 rows at most, $5 NULL, $6 … the place, and 1 if a row there is behind it, 0 if it is before it
SELECT (SELECT digest FROM sync.declaration) AS declared, coalesce(f.seq, 0) AS head, coalesce(f.mark, 0) AS head_mark,
       CASE WHEN q.number IS NOT NULL THEN coalesce(q.plan::text, '') END AS tier, g.i, g.key, g.total, r.number, g.v1, g.v2
FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (user_id, number)
LEFT JOIN sync.feeds f ON f.user_id = r.user_id
LEFT JOIN library.account q ON q."user" = r.user_id
LEFT JOIN LATERAL (
    SELECT w.i, m.*, count(*) OVER () AS total, row_number() OVER in_order AS nth,
           sum(100 + coalesce(octet_length(m.v2), 0)) OVER in_order AS bytes
    FROM unnest($3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::int[]) WITH ORDINALITY AS w (reader, rows, parent, p1, p2, p3, before, i)
    CROSS JOIN LATERAL (
        SELECT ARRAY[t."user"::text, t.author::text] AS key, t.rank AS v1, to_json(t.since) #>> '{}' AS v2, t.rank IS NOT NULL AS o1, coalesce(t.rank, '-9223372036854775808'::bigint) AS o2, t."user" AS o3, (t.author::text COLLATE "C") AS o4
        FROM library.follow t
        WHERE t."user" = r.user_id AND (t.rank IS NOT NULL, coalesce(t.rank, '-9223372036854775808'::bigint), t."user", (t.author::text COLLATE "C"), 0) < (w.p1 IS NOT NULL, coalesce((w.p1)::bigint, '-9223372036854775808'::bigint), (w.p2)::uuid, (w.p3 COLLATE "C"), w.before) AND (t.rank IS NOT NULL, coalesce(t.rank, '-9223372036854775808'::bigint)) <= (w.p1 IS NOT NULL, coalesce((w.p1)::bigint, '-9223372036854775808'::bigint))
        ORDER BY t.rank IS NOT NULL DESC, coalesce(t.rank, '-9223372036854775808'::bigint) DESC, t."user" DESC, (t.author::text COLLATE "C") DESC LIMIT w.rows
    ) m
    WHERE w.reader = r.number
    WINDOW in_order AS (ORDER BY w.i, m.o1 DESC, m.o2 DESC, m.o3 DESC, m.o4 DESC)
) g ON g.bytes <= $2 OR g.nth = 1
ORDER BY r.number, g.i, g.o1 DESC, g.o2 DESC, g.o3 DESC, g.o4 DESC

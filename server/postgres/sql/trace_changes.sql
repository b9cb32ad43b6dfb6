-- The newest changes of the row that the owner's log still has. `total` counts all of them, `first` is the seq of the
-- oldest. `place` is the change's number among the `rows` of its transaction.
-- $1 owner, $2 the texts of the row's key. {entry}: tracing.entry
SELECT l.seq, l.n, l.op::text, l.total, l.first, t.place, t.rows
FROM (
    SELECT seq, n, op, count(*) OVER () AS total, min(seq) OVER () AS first
    FROM sync.log l WHERE user_id = $1 AND {entry}
    ORDER BY seq DESC, n DESC LIMIT 20
) l
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE n <= l.n) AS place, count(*) AS rows FROM sync.log WHERE user_id = $1 AND seq = l.seq
) t
ORDER BY l.seq DESC, l.n DESC

-- The heads of these users' feeds, and the current history: for the sweep, which finds changes whose doorbell was lost.
-- $1 users
SELECT sync.epoch() AS epoch, array_agg(coalesce(f.seq, 0) ORDER BY u.i) AS seqs,
       array_agg(coalesce(f.mark, 0) ORDER BY u.i) AS marks
FROM unnest($1::uuid[]) WITH ORDINALITY AS u (user_id, i)
LEFT JOIN sync.feeds f ON f.user_id = u.user_id

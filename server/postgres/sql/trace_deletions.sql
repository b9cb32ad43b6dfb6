-- Parents that were deleted after the row's last change: their rows may have been deleted without an entry of their own.
-- `certain`: the parent changed in one transaction with the row.
-- $1 owner, $2 seqs of the row's changes, newest first. {tag}: of the parent's kind
SELECT coalesce(d.row_id::text, d.row_key[1]) AS parent, d.seq,
       EXISTS (SELECT FROM sync.log u
               WHERE u.user_id = $1 AND u.seq = ANY ($2) AND u.kind = d.kind AND u.op = 'u'
                 AND (u.row_id, u.row_key) IS NOT DISTINCT FROM (d.row_id, d.row_key)) AS certain
FROM sync.log d
WHERE d.user_id = $1 AND d.seq >= ($2::bigint[])[1] AND d.kind = {tag} AND d.op = 'd'
ORDER BY certain DESC, d.seq, d.n LIMIT 5

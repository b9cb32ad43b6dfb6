-- Conversations that were deleted after the message's last change: their messages were deleted without an entry of their
-- own. `certain`: the conversation changed in one transaction with the message.
-- $1 owner, $2 seqs of the message's changes, newest first
SELECT d.row_id AS conversation, d.seq,
       EXISTS (SELECT FROM sync.log u
               WHERE u.user_id = $1 AND u.seq = ANY ($2) AND u.kind = 'c' AND u.op = 'u' AND u.row_id = d.row_id) AS certain
FROM sync.log d
WHERE d.user_id = $1 AND d.seq >= ($2::bigint[])[1] AND d.kind = 'c' AND d.op = 'd'
ORDER BY certain DESC, d.seq, d.n LIMIT 5

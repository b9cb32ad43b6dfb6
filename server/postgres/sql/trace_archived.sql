-- The message in the archive, without its content.
-- $1 its id; several rows may have one id, if created_at differs
SELECT c.user_id AS owner, m.conversation_id, m.role, octet_length(m.content) AS content_bytes,
       CASE WHEN isfinite(m.created_at) THEN sync.seq_at(m.created_at) END AS created_at,
       CASE WHEN isfinite(m.updated_at) THEN sync.seq_at(m.updated_at) END AS updated_at,
       (SELECT count(*) FROM (
           SELECT FROM public.messages n
           WHERE n.conversation_id = m.conversation_id AND (n.created_at, n.id) > (m.created_at, m.id) LIMIT 1000
       ) AS first) AS newer
FROM public.messages_archive m LEFT JOIN public.conversations c ON c.id = m.conversation_id
WHERE m.id = $1
ORDER BY m.created_at DESC LIMIT 10

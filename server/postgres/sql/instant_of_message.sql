-- When the user's message was created, where a device cannot know it exactly: microseconds since
-- 1970, as text, because they may be more than a bigint holds; NULL at the ends of time.
-- $1 user, $2 id, $3 and $4 the range in which it lies
SELECT CASE WHEN isfinite(m.created_at) THEN trunc(EXTRACT(epoch FROM m.created_at) * 1000000)::text END AS instant,
       m.created_at > now() AS ahead
FROM sync.all_messages m JOIN public.conversations c ON c.id = m.conversation_id
WHERE m.id = $2 AND m.created_at BETWEEN $3 AND $4 AND c.user_id = $1
ORDER BY m.created_at LIMIT 1

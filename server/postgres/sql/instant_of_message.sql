-- The exact instant at which the user's message was created, for a device that knows only an end of the range that it can
-- hold: microseconds since 1970, as text, because they may exceed a bigint; NULL for an infinite instant.
-- $1 user, $2 id, $3 and $4 the range of its created_at
SELECT CASE WHEN isfinite(m.created_at) THEN trunc(EXTRACT(epoch FROM m.created_at) * 1000000)::text END AS instant,
       m.created_at > now() AS ahead
FROM sync.all_messages m JOIN public.conversations c ON c.id = m.conversation_id
WHERE m.id = $2 AND m.created_at BETWEEN $3 AND $4 AND c.user_id = $1
ORDER BY m.created_at LIMIT 1

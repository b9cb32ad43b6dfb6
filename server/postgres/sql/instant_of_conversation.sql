-- When the user's conversation was updated, where a device cannot know it exactly: microseconds since
-- 1970, as text, because they may be more than a bigint holds; NULL at the ends of time.
-- $1 user, $2 id
SELECT CASE WHEN isfinite(updated_at) THEN trunc(EXTRACT(epoch FROM updated_at) * 1000000)::text END AS instant,
       updated_at > now() AS ahead
FROM public.conversations WHERE id = $2 AND user_id = $1

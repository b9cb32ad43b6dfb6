-- The exact instant at which the user's conversation was updated, for a device that knows only an end of the range that it can
-- hold: microseconds since 1970, as text, because they may exceed a bigint; NULL for an infinite instant.
-- $1 user, $2 id
SELECT CASE WHEN isfinite(updated_at) THEN trunc(EXTRACT(epoch FROM updated_at) * 1000000)::text END AS instant,
       updated_at > now() AS ahead
FROM public.conversations WHERE id = $2 AND user_id = $1

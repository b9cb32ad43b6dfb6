-- The owner's plan, and the feed: its position by its own row and by the log, and the oldest entry that the log still has.
-- $1 owner
SELECT p.id IS NOT NULL AS has_profile, p.subscription_tier AS tier, p.subscription_status AS status,
       coalesce(f.seq, 0) AS head, newest.seq AS log_head, oldest.seq AS log_first, oldest.prev AS before_first
FROM (SELECT $1::uuid AS user_id) u
LEFT JOIN public.profiles p ON p.id = u.user_id
LEFT JOIN sync.feeds f ON f.user_id = u.user_id
LEFT JOIN LATERAL (SELECT seq FROM sync.log WHERE user_id = u.user_id ORDER BY seq DESC, n DESC LIMIT 1) newest ON true
LEFT JOIN LATERAL (SELECT seq, prev FROM sync.log WHERE user_id = u.user_id ORDER BY seq, n LIMIT 1) oldest ON true

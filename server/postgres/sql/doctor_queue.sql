-- How full the notification queue is, and the sessions that are in a transaction. One of them that listens prevents the
-- queue from being emptied. `since` is known to members of pg_read_all_stats, and for sessions of the same login.
SELECT pg_notification_queue_usage() AS usage, s.pid, s.role, s.database, s.since
FROM (VALUES (1)) AS one (one)
LEFT JOIN LATERAL (
    SELECT l.pid, a.usename::text AS role, a.datname::text AS database,
           to_char(a.xact_start, 'YYYY-MM-DD HH24:MI:SSOF') AS since
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    -- A session in a transaction holds the lock on its virtual transaction id. autovacuum has no user.
    WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
      AND a.usesysid IS NOT NULL
    ORDER BY a.xact_start, age(a.backend_xmin) DESC NULLS LAST, l.pid
) AS s ON true

-- What this database has, and what this login may read.
-- $1 the message's id, which may by mistake be the id of a conversation
SELECT sync.seq_at(clock_timestamp()) AS now,
       to_regclass('public.messages_archive') IS NOT NULL AS has_archive,
       has_table_privilege('sync.clients', 'SELECT') AS reads_clients,
       (SELECT sync.seq_at(min(since)) FROM sync.partitions WHERE parent = 'log' AND isfinite(since)) AS log_since,
       EXISTS (SELECT FROM public.conversations WHERE id = $1) AS is_conversation

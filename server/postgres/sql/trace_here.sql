-- What this database has, and what this login may read.
SELECT sync.seq_at(clock_timestamp()) AS now,
       has_table_privilege('sync.clients', 'SELECT') AS reads_clients,
       (SELECT sync.seq_at(min(since)) FROM sync.partitions WHERE parent = 'log' AND isfinite(since)) AS log_since

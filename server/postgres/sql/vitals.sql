-- The database's vital signs.
SELECT notification_queue, oldest_xmin, oldest_transaction, log_bytes, messages_default, log_default,
       messages_ahead, log_ahead, maintained_ago
FROM sync.vitals()

-- How many days ahead of now the partitions reach, without a gap from now on.
WITH bounds AS (
    SELECT i.inhparent::regclass::text AS parent,
           regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''?([^'')]+)''?\) TO \(''?([^'')]+)''?\)') AS b
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('public.messages'::regclass, 'sync.log'::regclass)
), spans AS (
    SELECT 'messages' AS name, b[1]::timestamptz AS since, b[2]::timestamptz AS until
    FROM bounds WHERE parent LIKE '%messages' AND b IS NOT NULL
    UNION ALL
    SELECT 'log', to_timestamp(b[1]::numeric / 1000000), to_timestamp(b[2]::numeric / 1000000)
    FROM bounds WHERE parent LIKE '%log' AND b IS NOT NULL
), reach AS (
    -- The end of the unbroken run that contains now: the first end at which no other span begins.
    SELECT s.name, min(s.until) AS until
    FROM spans s
    WHERE s.until > now()
      AND EXISTS (SELECT FROM spans n WHERE n.name = s.name AND n.since <= now() AND n.until > now())
      AND NOT EXISTS (SELECT FROM spans n WHERE n.name = s.name AND n.since = s.until)
    GROUP BY s.name
)
SELECT (SELECT extract(epoch FROM until - now()) / 86400 FROM reach WHERE name = 'messages')::float AS messages_days,
       (SELECT extract(epoch FROM until - now()) / 86400 FROM reach WHERE name = 'log')::float AS log_days

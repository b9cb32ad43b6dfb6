-- The ALTER TABLE actions that give messages_archive the columns of messages, whose partitions move there.
WITH columns AS (
    SELECT attrelid, attname, format_type(atttypid, atttypmod) AS type, attnum
    FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
)
SELECT string_agg(CASE WHEN a.attname IS NULL THEN format('ADD COLUMN %I %s', m.attname, m.type)
                       WHEN m.attname IS NULL THEN format('DROP COLUMN %I', a.attname)
                       ELSE format('ALTER COLUMN %I TYPE %s', m.attname, m.type) END, ', ' ORDER BY m.attnum, a.attnum)
FROM (SELECT * FROM columns WHERE attrelid = 'public.messages'::regclass) m
FULL JOIN (SELECT * FROM columns WHERE attrelid = 'public.messages_archive'::regclass) a ON a.attname = m.attname
WHERE a.type IS DISTINCT FROM m.type;

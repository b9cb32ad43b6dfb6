-- The columns that messages has and its archive lacks, as ALTER TABLE adds them.
SELECT string_agg(format('ADD COLUMN %I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) AS missing
FROM pg_attribute m
WHERE attrelid = 'public.messages'::regclass AND attnum > 0 AND NOT attisdropped
  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'public.messages_archive'::regclass
                  AND (a.attname, a.atttypid) = (m.attname, m.atttypid));

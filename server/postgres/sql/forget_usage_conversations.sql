-- Deletes which conversations of a day were counted, once no event of that day can arrive.
-- $1 days for which events are kept, $2 rows at once
DELETE FROM sync.daily_conversations WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM sync.daily_conversations WHERE date < (now() - make_interval(days => $1 + 2))::date ORDER BY date LIMIT $2))

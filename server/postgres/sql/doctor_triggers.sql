-- Triggers that are missing or not enabled, on the app's tables and on every partition of messages.
WITH tables AS (
    SELECT c.oid, c.oid::regclass::text AS tab, true AS parent
    FROM pg_class c WHERE c.oid IN ('public.profiles'::regclass, 'public.conversations'::regclass,
                                      'public.messages'::regclass, 'public.messages_archive'::regclass)
    UNION ALL
    SELECT i.inhrelid, i.inhrelid::regclass::text, false
    FROM pg_inherits i WHERE i.inhparent IN ('public.messages'::regclass, 'public.messages_archive'::regclass)
), wanted AS (
    SELECT t.oid, t.tab, w.trigger
    FROM tables t, unnest(ARRAY['atlas_sync_record', 'atlas_sync_record_update', 'atlas_sync_refuse_truncate']) AS w (trigger)
)
SELECT w.tab, w.trigger,
       CASE WHEN g.oid IS NULL THEN 'missing' WHEN g.tgenabled = 'D' THEN 'disabled' ELSE 'for replicas only' END AS problem
FROM wanted w
-- A trigger cloned to a partition may carry a name of its own; its parent trigger does not.
LEFT JOIN pg_trigger g ON g.tgrelid = w.oid
    AND coalesce((SELECT p.tgname FROM pg_trigger p WHERE p.oid = g.tgparentid), g.tgname) = w.trigger
WHERE g.oid IS NULL OR g.tgenabled NOT IN ('O', 'A')
ORDER BY w.tab, w.trigger

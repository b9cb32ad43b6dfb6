-- All messages, archived or not. The view has the rights of the role that reads it.
CREATE OR REPLACE VIEW sync.all_messages WITH (security_invoker = true) AS
    SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages
    UNION ALL
    SELECT id, conversation_id, role, content, created_at, updated_at FROM public.messages_archive;
GRANT SELECT ON sync.all_messages TO atlas_sync;

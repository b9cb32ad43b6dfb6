-- The archive, into which `atlas-sync maintain` moves old months of messages.

-- Messages older than some months: the same rows in the same files, in a table that a live feed never has to open. The app
-- may change and delete messages here, and the changes are recorded. It may not insert any.
CREATE TABLE public.messages_archive (
    LIKE public.messages INCLUDING ALL,
    FOREIGN KEY (conversation_id) REFERENCES public.conversations ON DELETE CASCADE
) PARTITION BY RANGE (created_at);
ALTER TABLE public.messages_archive ENABLE ROW LEVEL SECURITY;
CREATE POLICY atlas_own_messages ON public.messages_archive FOR ALL TO authenticated
    USING (EXISTS (SELECT FROM public.conversations c
                   WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())))
    WITH CHECK (EXISTS (SELECT FROM public.conversations c
                        WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())));
CREATE POLICY atlas_sync_reads ON public.messages_archive FOR SELECT TO atlas_sync USING (true);

-- The roles that may read or change messages may do so here, and no others, whatever the default rights of this schema
-- are.
DO $$
DECLARE
    may record;
    who text;
BEGIN
    FOR who IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
               FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = 'public.messages_archive'::regclass AND a.grantee <> c.relowner LOOP
        EXECUTE 'REVOKE ALL ON public.messages_archive FROM ' || who;
    END LOOP;
    FOR may IN SELECT a.privilege_type, a.grantee FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = 'public.messages'::regclass AND a.grantee <> c.relowner
                 AND a.privilege_type IN ('SELECT', 'UPDATE', 'DELETE') LOOP
        EXECUTE format('GRANT %s ON public.messages_archive TO %s', may.privilege_type,
                       CASE may.grantee WHEN 0 THEN 'PUBLIC' ELSE may.grantee::regrole::text END);
    END LOOP;
    FOR may IN SELECT x.privilege_type, x.grantee, a.attname FROM pg_attribute a, aclexplode(a.attacl) x
               WHERE a.attrelid = 'public.messages'::regclass AND x.privilege_type IN ('SELECT', 'UPDATE') LOOP
        EXECUTE format('GRANT %s (%I) ON public.messages_archive TO %s', may.privilege_type, may.attname,
                       CASE may.grantee WHEN 0 THEN 'PUBLIC' ELSE may.grantee::regrole::text END);
    END LOOP;
END
$$;

-- The app's row policies on messages apply here too.
DO $$
DECLARE
    theirs record;
BEGIN
    FOR theirs IN SELECT p.polname, p.polpermissive, p.polcmd,
                         (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ')
                          FROM unnest(p.polroles) r) AS roles,
                         regexp_replace(pg_get_expr(p.polqual, p.polrelid), '\mmessages\.', 'messages_archive.', 'g') AS uses,
                         regexp_replace(pg_get_expr(p.polwithcheck, p.polrelid), '\mmessages\.', 'messages_archive.', 'g')
                             AS checks
                  FROM pg_policy p WHERE p.polrelid = 'public.messages'::regclass
                    AND p.polname NOT IN ('atlas_own_messages', 'atlas_sync_reads') AND p.polcmd <> 'a' LOOP
        EXECUTE format('CREATE POLICY %I ON public.messages_archive AS %s FOR %s TO %s %s %s', theirs.polname,
                       CASE WHEN theirs.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE theirs.polcmd WHEN 'r' THEN 'SELECT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                       theirs.roles, coalesce('USING (' || theirs.uses || ')', ''),
                       coalesce('WITH CHECK (' || theirs.checks || ')', ''));
    END LOOP;
END
$$;

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public.messages_archive
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.message_changed();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public.messages_archive
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.conversation_id, OLD.role, OLD.content, OLD.created_at, OLD.updated_at)
          IS DISTINCT FROM (NEW.id, NEW.conversation_id, NEW.role, NEW.content, NEW.created_at, NEW.updated_at))
    EXECUTE FUNCTION sync.message_changed();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public.messages_archive
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

-- Every archived message is older than `archived_until`. Rows in the default partition of messages may be older still.
ALTER TABLE sync.meta ADD COLUMN archived_until timestamptz NOT NULL DEFAULT '-infinity';

-- sync.vitals() counts the rows in the default partitions, so nobody needs to read these.
DROP POLICY atlas_sync_reads ON sync.messages_default;
REVOKE SELECT ON sync.messages_default, sync.log_default FROM atlas_sync;

-- Partitions that the app had made lack the trigger that refuses TRUNCATE.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'public.messages'::regclass
                AND NOT EXISTS (SELECT FROM pg_trigger g
                                WHERE g.tgrelid = i.inhrelid AND g.tgname = 'atlas_sync_refuse_truncate') LOOP
        EXECUTE format('CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', part);
    END LOOP;
END
$$;

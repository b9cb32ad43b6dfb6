-- What this login lacks of what the server needs, and what it has beyond that.
SELECT (SELECT string_agg(need, ', ') FROM (VALUES
            ('USAGE on schema sync', has_schema_privilege('sync', 'USAGE')),
            ('SELECT on sync.feeds', has_table_privilege('sync.feeds', 'SELECT')),
            ('SELECT on sync.log', has_table_privilege('sync.log', 'SELECT')),
            ('EXECUTE on sync.epoch()', has_function_privilege('sync.epoch()', 'EXECUTE')),
            ('EXECUTE on sync.push', has_function_privilege('sync.push'::regproc, 'EXECUTE')),
            ('SELECT on public.profiles', has_column_privilege('public.profiles', 'subscription_tier', 'SELECT')),
            ('SELECT on public.conversations', has_table_privilege('public.conversations', 'SELECT')),
            ('SELECT on public.messages', has_table_privilege('public.messages', 'SELECT')),
            ('the policy of atlas_sync (membership)', pg_has_role('atlas_sync', 'USAGE')
                OR (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user))
        ) AS needs (need, has) WHERE NOT has) AS missing,
       (SELECT string_agg(can, ', ') FROM (VALUES
            ('it is a superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)),
            ('it bypasses row level security', (SELECT rolbypassrls AND NOT rolsuper FROM pg_roles WHERE rolname = current_user)),
            ('it may create roles', (SELECT rolcreaterole AND NOT rolsuper FROM pg_roles WHERE rolname = current_user)),
            ('it owns objects', EXISTS (
                SELECT FROM pg_shdepend s JOIN pg_database d ON d.datname = current_database()
                WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o' AND s.dbid IN (0, d.oid)
                  AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = current_user))),
            ('it may write messages', has_table_privilege('public.messages', 'INSERT, UPDATE, DELETE')
                AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
        ) AS excess (can, does) WHERE does) AS too_many

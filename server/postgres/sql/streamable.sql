-- What keeps this login from streaming the changes of this database; one row for each, none if it can.
SELECT problem FROM (VALUES
    ('wal_level is not logical. Set it, and restart Postgres.', current_setting('wal_level') <> 'logical'),
    ('This login may not stream. Run `ALTER ROLE <login> REPLICATION` as an administrator.',
     NOT EXISTS (SELECT FROM pg_roles WHERE rolname = session_user AND (rolreplication OR rolsuper))
     AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(session_user, oid, 'MEMBER'))),
    ('There is no publication. Run `atlas-sync migrate --doorbells wal`.',
     NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'atlas_sync')),
    -- Each commit would wait until we report that we have received it.
    ('synchronous_standby_names includes every standby (*), and so this server. Name the standbys.',
     current_setting('synchronous_standby_names') ~ '(^|[ ,(])"?[*]"?')
) AS found (problem, stands) WHERE stands

-- Logins of this database whose sessions may stay in a transaction for ever. A setting of the role in the database comes
-- before one of the role, of the database, of all roles, and of the server's configuration. Without superusers: the owner of
-- a database may not change their settings.
SELECT r.oid::regrole::text AS role
FROM pg_roles r, pg_database d, pg_settings g
WHERE d.datname = current_database() AND g.name = 'idle_in_transaction_session_timeout'
  AND r.rolcanlogin AND NOT r.rolsuper AND has_database_privilege(r.oid, d.oid, 'CONNECT')
  AND coalesce((SELECT split_part(setting, '=', 2)
                FROM pg_db_role_setting s, unnest(s.setconfig) AS setting
                WHERE setting LIKE g.name || '=%' AND s.setdatabase IN (0, d.oid) AND s.setrole IN (0, r.oid)
                ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1),
               -- A setting for this login hides the configuration.
               CASE WHEN g.source IN ('database user', 'user', 'database') THEN g.boot_val ELSE g.reset_val END
              ) ~ '^0+[a-z]*$'
ORDER BY 1

-- Whether row level security shows every profile to this login, and the current history. Only then does a profile that was
-- not found not exist. A policy that was dropped and created again meanwhile has begun another history.
SELECT sync.epoch() AS epoch,
       NOT row_security_active($1::text) OR coalesce(
           bool_or(p.polpermissive AND p.shows_all) AND bool_and(p.polpermissive OR p.shows_all), false) AS sees
FROM (
    SELECT polpermissive,
           polqual::text ~ '^\{CONST :consttype 16 .*:constisnull false .*\[ (1( 0)*|(0 )*1) \]\}$' AS shows_all
    FROM pg_policy
    WHERE polrelid = $1::text::regclass AND polcmd IN ('r', '*')
      AND EXISTS (SELECT FROM unnest(polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE'))
) p

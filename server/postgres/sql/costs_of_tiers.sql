-- What each tier cost on each day.
-- $1 the first day
SELECT tier, date, coalesce(sum(cost), 0)::float AS cost FROM sync.daily_costs
WHERE date BETWEEN $1 AND (now() AT TIME ZONE 'UTC')::date GROUP BY 1, 2

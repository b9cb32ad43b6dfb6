-- Models that were used since $1 and have no price.
SELECT DISTINCT model FROM sync.daily_costs WHERE date >= $1 AND cost IS NULL ORDER BY 1 LIMIT 100

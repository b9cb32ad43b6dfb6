-- Users who cost more than $3 on one of the days since $1, the most expensive first: the day, its cost, and the costs of the
-- $2 days before it, the last one first, without those before $4, the first day of any usage.
WITH dear AS (
    SELECT user_id, date, sum(cost) AS cost FROM sync.daily_costs
    WHERE date BETWEEN $1 AND (now() AT TIME ZONE 'UTC')::date
    GROUP BY 1, 2 HAVING sum(cost) > $3::float ORDER BY 3 DESC LIMIT 1000
)
SELECT d.user_id, d.date, d.cost::float AS cost,
       ARRAY(SELECT coalesce((SELECT sum(c.cost) FROM sync.daily_costs c WHERE c.user_id = d.user_id AND c.date = d.date - n), 0)::float
             FROM generate_series(1, least($2::int, d.date - $4::date)) AS n ORDER BY n) AS before
FROM dear d ORDER BY d.cost DESC

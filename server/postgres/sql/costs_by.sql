-- Usage and costs by tier, day, model or user; days in their order, all others by their cost.
-- $1 one of these words, $2 the first day, $3 rows at most
SELECT CASE $1::text WHEN 'tier' THEN tier WHEN 'day' THEN date::text WHEN 'model' THEN model ELSE user_id::text END AS key,
       count(DISTINCT user_id) AS users, sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
       sum(output_tokens)::bigint AS output_tokens, coalesce(sum(cost), 0) AS cost
FROM sync.daily_costs WHERE date BETWEEN $2 AND (now() AT TIME ZONE 'UTC')::date
GROUP BY 1 ORDER BY CASE WHEN $1 = 'day' THEN 0 ELSE -coalesce(sum(cost), 0) END, 1 LIMIT $3

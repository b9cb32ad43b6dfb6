-- Records what is unusual, for the servers' figures.
UPDATE sync.usage_state SET tiers = $1::text::jsonb, unusual_users = $2, unusual_tiers = $3, models_without_price = $4
WHERE (tiers, unusual_users, unusual_tiers, models_without_price) IS DISTINCT FROM ($1::text::jsonb, $2::int, $3::int, $4::int)

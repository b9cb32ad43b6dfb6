-- Figures of usage and costs.
SELECT pending, ahead, tiers, unusual_users, unusual_tiers, models_without_price FROM sync.usage_vitals()

-- What server/operations/maintenance_plan.py plans by, with the rights of the tables' owner.
-- $1 days after which installations are forgotten, $2 days for which events are kept, $3 days for which
-- idempotency keys are kept
SELECT now() AS now,
       (SELECT (k ->> 'archive')::int FROM sync.declaration d, jsonb_array_elements(d.declared -> 'kinds') k
        WHERE k -> 'table' = '["public", "messages"]') AS archive_months,
       EXISTS (SELECT FROM sync.kinds k WHERE k.tab = 'public.messages' AND k.parted) AS partitioned,
       (SELECT coalesce(array_agg((p.parent, p.partition::text, p.since, p.until, c.oid IS NOT NULL,
                                   coalesce(c.convalidated, false)) ORDER BY p.parent, p.since), '{}')
        FROM sync.partitions p
        LEFT JOIN pg_constraint c ON c.conrelid = p.partition AND c.conname = 'atlas_bounds'
        WHERE NOT p.is_default) AS partitions,
       (SELECT coalesce(array_agg(s ORDER BY s), '{}') FROM (
            SELECT 'messages', m.month, m.rows FROM sync.stray_messages() m
            UNION ALL
            SELECT 'log', date_trunc('week', to_timestamp(seq / 1000000), 'UTC'), count(*) FROM sync.log_default GROUP BY 2
            UNION ALL
            SELECT 'usage_logs', date_trunc('week', "timestamp", 'UTC'), count(*) FROM sync.usage_logs_default GROUP BY 2
       ) s) AS strays,
       EXISTS (SELECT FROM sync.clients c WHERE c.pushed_at < now() - make_interval(days => $1)
               AND NOT EXISTS (SELECT FROM sync.devices d
                               WHERE (d.user_id, d.client_id) = (c.user_id, c.client_id)
                                 AND d.noted_at >= now() - make_interval(days => $1))) AS old_clients,
       EXISTS (SELECT FROM sync.devices WHERE noted_at < now() - make_interval(days => $1)) AS old_devices,
       EXISTS (SELECT FROM sync.servers WHERE seen_at < now() - interval '1 day') AS silent_servers,
       EXISTS (SELECT FROM sync.usage_batches)
           OR (SELECT prices FROM sync.usage_state) <> sync.price_list() AS uncounted_usage,
       EXISTS (SELECT FROM sync.usage_keys WHERE written_at < now() - make_interval(days => $3)) AS old_keys,
       EXISTS (SELECT FROM sync.daily_conversations WHERE date < (now() - make_interval(days => $2 + 2))::date)
           AS old_conversations,
       EXISTS (SELECT FROM sync.response_cache WHERE expires_at < now())
           OR EXISTS (SELECT FROM sync.response_leases WHERE until < now() - interval '1 day')
           OR EXISTS (SELECT FROM sync.response_flushes WHERE flushed_at < now() - interval '1 day') AS expired_responses

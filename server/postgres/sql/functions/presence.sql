-- Presence: the last known position of each device.

-- How many installations and devices of one user are kept. The one that was seen longest ago is forgotten first.
CREATE OR REPLACE FUNCTION sync.most_devices() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$ SELECT 200 $$;

-- Records where devices are: one array element per device. The last state of an older connection does not overwrite that of
-- a newer one.
CREATE OR REPLACE FUNCTION sync.note(of_server text, users uuid[], client_ids uuid[], sessions text[], seqs bigint[],
                                     states text[], close_codes int[], connected_ats timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newcomer pg_catalog.uuid;
BEGIN
    -- The caller does not wait for the disk. Rows that a crash loses are written again.
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO sync.servers (server, seen_at) VALUES (of_server, now())
    ON CONFLICT (server) DO UPDATE SET seen_at = excluded.seen_at;
    FOR newcomer IN WITH noted AS (
        INSERT INTO sync.devices AS d (user_id, client_id, session, server, seq, state, close_code, connected_at, noted_at)
        SELECT u.user_id, u.client_id, u.session, of_server, u.seq, u.state, u.close_code, u.connected_at, now()
        FROM unnest(users, client_ids, sessions, seqs, states, close_codes, connected_ats)
             AS u (user_id, client_id, session, seq, state, close_code, connected_at)
        ORDER BY u.user_id, u.client_id
        ON CONFLICT (user_id, client_id) DO UPDATE
            SET session = excluded.session, server = excluded.server, seq = coalesce(excluded.seq, d.seq),
                state = excluded.state, close_code = excluded.close_code, noted_at = excluded.noted_at,
                connected_at = excluded.connected_at
            WHERE excluded.connected_at >= d.connected_at
        RETURNING d.user_id, d.xmax = 0 AS is_new
    )
    SELECT DISTINCT n.user_id FROM noted n WHERE n.is_new LOOP
        DELETE FROM sync.devices d WHERE d.user_id = newcomer AND d.client_id = ANY (ARRAY(
            SELECT o.client_id FROM sync.devices o WHERE o.user_id = newcomer
            ORDER BY o.noted_at DESC, o.client_id OFFSET sync.most_devices()));
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION sync.most_devices, sync.note FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.note TO atlas_sync;

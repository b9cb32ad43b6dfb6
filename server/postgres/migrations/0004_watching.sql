-- Tables for operators and support staff: when maintenance last ran, and the last known position of each device.

-- When maintenance last ran to its end.
ALTER TABLE sync.meta ADD COLUMN maintained_at timestamptz;

-- Each running server process updates its row every few seconds. The rows in sync.devices of a server that stopped doing
-- so are out of date.
CREATE TABLE sync.servers (
    server  text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

-- The position of each device when its server last wrote it down: seconds old. Servers write in groups, never for a
-- single change.
CREATE TABLE sync.devices (
    user_id      uuid NOT NULL,
    client_id    uuid NOT NULL,
    session      text NOT NULL,          -- its connection, by the name that the server's log uses
    server       text NOT NULL,
    seq          bigint,                 -- its position; during a snapshot, the last one before
    state        text NOT NULL,          -- live, catching_up, snapshot, stalled, closed
    close_code   int,
    connected_at timestamptz NOT NULL,
    noted_at     timestamptz NOT NULL,
    PRIMARY KEY (user_id, client_id)
) WITH (fillfactor = 50);

GRANT SELECT ON sync.servers, sync.devices, sync.clients TO atlas_sync;

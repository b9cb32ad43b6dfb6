-- Pushes: up to which number the mutations of each installation of the app have been applied.

CREATE TABLE sync.clients (
    user_id       uuid NOT NULL,
    client_id     uuid NOT NULL,
    last_mutation bigint NOT NULL,
    session       text NOT NULL,                 -- the connection that has this client_id
    rejected      jsonb NOT NULL DEFAULT '{}',   -- {n: code}, of the numbers whose results the device may not have received yet
    pushed_at     timestamptz NOT NULL,
    PRIMARY KEY (user_id, client_id)
) WITH (fillfactor = 50);

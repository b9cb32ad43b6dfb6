-- Responses that the app's backend caches.

CREATE TABLE sync.response_cache (
    query_hash    text NOT NULL,               -- of the question, the model and the scope: server/responses/question.py
    tier          text NOT NULL,
    response_text text NOT NULL,
    hit_count     int NOT NULL DEFAULT 0,      -- how often it was returned, since the row was made
    expires_at    timestamptz NOT NULL,
    created_at    timestamptz NOT NULL,
    tokens        int NOT NULL DEFAULT 0,      -- what computing it took, and what that cost
    cost          numeric(14, 8) NOT NULL DEFAULT 0,
    version       bigint NOT NULL,             -- microseconds since 1970; a later response has a greater one
    PRIMARY KEY (query_hash, tier)
) WITH (fillfactor = 90);
CREATE INDEX response_cache_expiry ON sync.response_cache (expires_at);

-- Who computes a response at this moment. Unlogged: a commit waits for no disk, and a crash ends all leases.
CREATE UNLOGGED TABLE sync.response_leases (
    query_hash text NOT NULL,
    tier       text NOT NULL,
    fence      bigint NOT NULL,                -- names this lease, and will be the version of its response
    until      timestamptz NOT NULL,
    PRIMARY KEY (query_hash, tier)
);

-- The last group of hits that each process has counted: a group that is sent twice counts once.
CREATE TABLE sync.response_flushes (
    process    uuid PRIMARY KEY,
    number     bigint NOT NULL,
    flushed_at timestamptz NOT NULL
);

ALTER TABLE sync.response_cache ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.response_leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync.response_flushes ENABLE ROW LEVEL SECURITY;

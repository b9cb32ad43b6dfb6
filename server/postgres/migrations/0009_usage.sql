-- Usage and costs. Events go to usage_logs. `atlas-sync maintain` counts each of them once, into daily_usage and daily_costs.

-- One row for each statement that wrote to usage_logs and is not counted yet. It is committed together with its events, and
-- deleted together with what was counted of them.
CREATE TABLE sync.usage_batches (
    batch      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    written_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- No index by user: at 50 million events a day it would cost more than all the rest, and daily_costs answers by user.
CREATE TABLE sync.usage_logs (
    id          bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    user_id     uuid NOT NULL,
    event       text NOT NULL,
    data        jsonb NOT NULL DEFAULT '{}',
    "timestamp" timestamptz NOT NULL DEFAULT pg_catalog.now() CHECK (pg_catalog.isfinite("timestamp")),
    -- Set by sync.begin_batch. NULL, and so refused, for a row that is written to a partition directly: it would not be counted.
    batch       bigint NOT NULL DEFAULT nullif(pg_catalog.current_setting('atlas_sync.usage_batch', true), '')::bigint
) PARTITION BY RANGE ("timestamp");
CREATE INDEX usage_logs_batch ON sync.usage_logs (batch);
CREATE TABLE sync.usage_logs_default PARTITION OF sync.usage_logs DEFAULT;
CREATE TRIGGER atlas_sync_batch BEFORE INSERT ON sync.usage_logs FOR EACH STATEMENT EXECUTE FUNCTION sync.begin_batch();

-- Idempotency keys of POST /v1/usage, as hashes, each with the hash of its events. Kept for a week.
CREATE TABLE sync.usage_keys (
    key        uuid PRIMARY KEY,
    digest     uuid NOT NULL,
    written_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX usage_keys_by_age ON sync.usage_keys (written_at);

-- Days are those of UTC.
CREATE TABLE sync.daily_usage (
    id                  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    user_id             uuid NOT NULL,
    date                date NOT NULL,
    conversations_count int NOT NULL,
    total_tokens_used   bigint NOT NULL,
    api_cost_estimate   numeric(10,4) NOT NULL,
    tier                text NOT NULL,           -- of the newest event
    tier_at             timestamptz NOT NULL,    -- when that event happened
    UNIQUE (user_id, date)
) WITH (fillfactor = 70);

-- The cost of a user's day by tier and model, exact to the last digit: api_cost_estimate is their sum, rounded.
CREATE TABLE sync.daily_costs (
    user_id       uuid NOT NULL,
    date          date NOT NULL,
    tier          text NOT NULL,
    model         text NOT NULL,
    requests      bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost          numeric,                       -- NULL while the model has no price
    PRIMARY KEY (user_id, date, tier, model)
) WITH (fillfactor = 70);
CREATE INDEX daily_costs_by_day ON sync.daily_costs (date, tier);

-- Which conversations of a day were counted already. Kept as long as usage_logs.
CREATE TABLE sync.daily_conversations (
    date            date NOT NULL,
    user_id         uuid NOT NULL,
    conversation_id uuid NOT NULL,
    PRIMARY KEY (date, user_id, conversation_id)
);

-- The price list, in any one currency. Whoever owns the tables edits it; costs follow within five minutes.
CREATE TABLE sync.model_prices (
    model      text NOT NULL,
    input      numeric NOT NULL CHECK (input >= 0 AND input < 'Infinity'),     -- of a million input tokens
    output     numeric NOT NULL CHECK (output >= 0 AND output < 'Infinity'),   -- of a million output tokens
    valid_from date NOT NULL DEFAULT '2000-01-01',                             -- until a later row of the model
    PRIMARY KEY (model, valid_from)
);

-- What maintenance found last, for the server's figures.
CREATE TABLE sync.usage_state (
    only_one       boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    prices         jsonb NOT NULL DEFAULT '{}',  -- the price list by which costs were computed
    tiers          jsonb NOT NULL DEFAULT '{}',  -- {tier: cost of the present day}
    unusual_users  int NOT NULL DEFAULT 0,
    unusual_tiers  int NOT NULL DEFAULT 0,
    models_without_price int NOT NULL DEFAULT 0
);
INSERT INTO sync.usage_state DEFAULT VALUES;

DO $$
DECLARE
    ours pg_catalog.regclass;
BEGIN
    FOR ours IN SELECT t::pg_catalog.regclass
                FROM pg_catalog.unnest(ARRAY['sync.usage_batches', 'sync.usage_logs', 'sync.usage_logs_default',
                                             'sync.usage_keys', 'sync.daily_usage', 'sync.daily_costs',
                                             'sync.daily_conversations', 'sync.model_prices', 'sync.usage_state']) AS t LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', ours);
    END LOOP;
END
$$;

-- The app's backend may add events by SQL, and do nothing else. The server adds them by sync.log_usage.
GRANT USAGE ON SCHEMA sync TO service_role;
GRANT INSERT (user_id, event, data, "timestamp") ON sync.usage_logs TO service_role;
CREATE POLICY atlas_sync_adds ON sync.usage_logs FOR INSERT TO service_role WITH CHECK (true);

-- Feeds: the ordered stream of one user's changes. Triggers write it in the transaction that changes the row.

REVOKE ALL ON SCHEMA sync FROM PUBLIC;
GRANT USAGE ON SCHEMA sync TO atlas_sync;

CREATE TABLE sync.meta (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- After restoring a disk image, set a new one by hand: `UPDATE sync.meta SET history = gen_random_uuid()`.
    history  uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO sync.meta DEFAULT VALUES;

-- `prev` is the seq before the last transaction, `xid` is that transaction. fillfactor 50 keeps the updates HOT.
CREATE TABLE sync.feeds (
    user_id uuid PRIMARY KEY,
    seq     bigint NOT NULL,
    prev    bigint NOT NULL,
    xid     xid8 NOT NULL
) WITH (fillfactor = 50);

-- The change log: one row per changed row per transaction. `prev` is the feed's seq before this transaction. With it a
-- reader proves from the log itself that nothing is missing between its position and the rows it reads.
CREATE TABLE sync.log (
    user_id uuid NOT NULL,
    seq     bigint NOT NULL,
    n       bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    prev    bigint NOT NULL,
    kind    "char" NOT NULL,     -- p profile, c conversation, m message
    op      "char" NOT NULL,     -- u upsert, d deletion
    row_id  uuid NOT NULL,
    row_at  timestamptz,         -- a message's created_at: the other half of its primary key
    PRIMARY KEY (user_id, seq, n)
) PARTITION BY RANGE (seq);
CREATE TABLE sync.log_default PARTITION OF sync.log DEFAULT;

GRANT SELECT ON sync.feeds, sync.log, sync.log_default, sync.meta TO atlas_sync;
-- For `doctor`.
GRANT SELECT ON sync.migrations TO atlas_sync;

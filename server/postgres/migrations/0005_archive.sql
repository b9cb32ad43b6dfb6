-- The archive, into which `atlas-sync maintain` moves old months.

-- Every archived message is older than `archived_until`. Rows in the default partition of messages may be older still.
ALTER TABLE sync.meta ADD COLUMN archived_until timestamptz NOT NULL DEFAULT '-infinity';

-- sync.vitals() counts the rows in the default partition, so nobody needs to read it.
REVOKE SELECT ON sync.log_default FROM atlas_sync;

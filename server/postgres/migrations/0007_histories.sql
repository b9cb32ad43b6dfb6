-- Histories with an order, transactions with a name, and mutation numbers that mean one mutation in every history.

-- `mark` names a transaction within one feed. Its seq cannot: a database that lost its newest transactions gives the same
-- seq to another one if its clock is behind the feed. Its xid cannot either, because each cluster counts its own: a row of
-- a dump that is restored into a younger cluster would name a transaction of the future. NULL: older than this migration.
ALTER TABLE sync.feeds ADD COLUMN mark bigint, ADD COLUMN prev_mark bigint, DROP COLUMN xid;
ALTER TABLE sync.log ADD COLUMN mark bigint, ADD COLUMN prev_mark bigint;

-- The histories of this database, the current one last. Two databases that share a past are ordered by the rows that both
-- of them have.
CREATE TABLE sync.histories (
    n         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    epoch     text NOT NULL UNIQUE,
    identity  text NOT NULL,              -- the result of sync.identity()
    system    bigint NOT NULL,            -- system identifier of the cluster that began it
    timeline  int NOT NULL,
    began_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
ALTER TABLE sync.histories ENABLE ROW LEVEL SECURITY;
CREATE POLICY atlas_sync_reads ON sync.histories FOR SELECT TO atlas_sync USING (true);
GRANT SELECT ON sync.histories TO atlas_sync;

-- Cursors that were issued before this migration stay valid: this is how sync.epoch() computed their epoch.
INSERT INTO sync.histories (epoch, identity, system, timeline)
SELECT pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
           m.history || ' ' || c.system_identifier || ' '
               || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8), 'UTF8')), 'hex'), 1, 16),
       '', c.system_identifier, 0
FROM sync.meta m, pg_catalog.pg_control_system() c;
UPDATE sync.histories h SET identity = i.identity, timeline = i.timeline FROM sync.identity() i;

-- `digests`: one for each mutation number up to last_mutation, which has the last element. Negative if the mutation was
-- rejected, 0 if the number was given away. NULL in the first element: that number and those below are not known. NULL as a
-- whole: nothing was pushed since this migration. `former`: digests of mutations that are applied and that their device
-- now sends under other numbers, up to `former_until`.
ALTER TABLE sync.clients ADD COLUMN generation bigint, ADD COLUMN digests bigint[], ADD COLUMN former bigint[],
    ADD COLUMN former_until bigint;

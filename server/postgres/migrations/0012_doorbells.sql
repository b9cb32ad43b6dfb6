-- Doorbells from the WAL: while every server reads them there, NOTIFY, which serialises commits, is silent.

-- `doorbells`: what `migrate --doorbells` chose; nothing is silent unless it is `wal`. `quiet_until`: NOTIFY is silent before
-- this instant. It is never far away: when all servers that read the WAL have ended, NOTIFY rings again by itself.
ALTER TABLE sync.meta
    ADD COLUMN doorbells text NOT NULL DEFAULT 'listen' CHECK (doorbells IN ('listen', 'wal')),
    ADD COLUMN quiet_until timestamptz NOT NULL DEFAULT '-infinity';

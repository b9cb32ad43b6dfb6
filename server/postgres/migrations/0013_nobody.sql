-- Rows that belong to nobody: what functions/record.sql holds while it records that they change, or get an owner.

CREATE TABLE sync.nobody (
    place int PRIMARY KEY,
    mark  bigint NOT NULL                      -- the transaction that held it alone last
) WITH (fillfactor = 50);                      -- each new version of a row finds room beside it

ALTER TABLE sync.nobody ENABLE ROW LEVEL SECURITY;

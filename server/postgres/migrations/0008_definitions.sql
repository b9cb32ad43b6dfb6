-- Functions and views are no longer copied from migration to migration.

-- {file: md5} of the files in sql/functions and sql/views that were applied last. `migrate` applies a file again when its
-- checksum differs. A function that differs although its file does not was altered by somebody else.
ALTER TABLE sync.migrations ADD COLUMN definitions jsonb NOT NULL DEFAULT '{}';

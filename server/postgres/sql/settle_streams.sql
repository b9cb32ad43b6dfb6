-- Compares streams that have ended with their rows: see functions/streams.sql.
SELECT stream, ended, settled, written, trouble FROM sync.settle_streams(server => $1, silence => $2, patience => $3)

-- Which of these streams have lost their row: see functions/streams.sql.
SELECT stream FROM sync.lost_streams(ids => $1) AS stream

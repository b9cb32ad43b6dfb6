-- What a replica is: whether it still follows another Postgres, whose history it holds, and how much of it.
-- `history_system`, `history_timeline`: the cluster and the timeline on which the history began, which the replica must be a copy
-- of. `timeline`: the latest one that it surely has replayed.
SELECT pg_is_in_recovery() AS in_recovery, h.epoch, h.system AS history_system, h.timeline AS history_timeline,
       s.system_identifier AS system, greatest(c.timeline_id, r.min_recovery_end_timeline) AS timeline,
       CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END AS replayed
FROM (SELECT epoch, system, timeline FROM sync.histories ORDER BY n DESC LIMIT 1) h,
     pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r

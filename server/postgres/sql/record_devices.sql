-- Records where devices are: see functions/presence.sql.
SELECT sync.note(of_server => $1, users => $2, client_ids => $3, sessions => $4, seqs => $5, states => $6,
                 close_codes => $7, connected_ats => $8)

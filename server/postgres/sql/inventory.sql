SELECT ''::text AS what, ''::text AS problem, ''::text AS mend, false AS serving WHERE false

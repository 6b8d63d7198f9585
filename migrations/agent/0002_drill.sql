-- The newest result of a drill of each source, copy and verdict; the seal is checked by whoever reads it.

CREATE TABLE drill (
    group_name TEXT NOT NULL,
    source TEXT NOT NULL,
    -- "pool", "vault main"
    copy TEXT NOT NULL,
    -- proven, damaged
    verdict TEXT NOT NULL,
    drilled INTEGER NOT NULL,
    record TEXT NOT NULL,
    seal TEXT NOT NULL,
    PRIMARY KEY (group_name, source, copy, verdict)
) STRICT;

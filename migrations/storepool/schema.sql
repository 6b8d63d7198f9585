CREATE TABLE chunk (
    prefix INTEGER NOT NULL,              -- first 8 bytes of the chunk id
    place  INTEGER NOT NULL,              -- pack.no * 2^20 + ordinal in the pack
    PRIMARY KEY (prefix, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE directory (
    no    INTEGER PRIMARY KEY AUTOINCREMENT,
    id    BLOB NOT NULL UNIQUE            -- the directory's id from its marker
) STRICT;

CREATE TABLE pack (
    no              INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice, so a stale row of "chunk" can never meet another pack
    id              BLOB    NOT NULL UNIQUE,
    directory       INTEGER NOT NULL REFERENCES directory (no),
    kind            INTEGER NOT NULL,     -- 1 data, 2 metadata
    length          INTEGER NOT NULL,     -- bytes of the file
    raw_length      INTEGER NOT NULL,     -- bytes of its chunks before compression
    chunks          INTEGER NOT NULL,
    condemned_after INTEGER               -- NULL: sealed; else the newest session when it was condemned; -1: its file is being removed
) STRICT;

CREATE TABLE point (
    id             BLOB    PRIMARY KEY,
    started        INTEGER NOT NULL,      -- nanoseconds since 1970 UTC
    finished       INTEGER NOT NULL,
    host           TEXT    NOT NULL,
    group_name     TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    workload       TEXT    NOT NULL,
    paths          TEXT    NOT NULL,      -- JSON array, for people
    root           BLOB    NOT NULL,
    files          INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    bytes_stored   INTEGER NOT NULL,
    problem_count  INTEGER NOT NULL,
    notes          TEXT    NOT NULL       -- JSON: tags and pins
) STRICT, WITHOUT ROWID;

CREATE INDEX point_by_series ON point (group_name, source, started);

CREATE TABLE session (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    lock       TEXT    NOT NULL UNIQUE,   -- file below locks/ that its process holds
    first_pack INTEGER NOT NULL,          -- packs from this number on may be the session's own, not yet named by any point
    base       BLOB                       -- point whose chunks the session relies on
) STRICT;

CREATE TABLE suspicion (
    reason TEXT PRIMARY KEY               -- why points may have holes; empty: none has, as far as is known
) STRICT, WITHOUT ROWID;

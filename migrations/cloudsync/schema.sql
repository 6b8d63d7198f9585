CREATE TABLE chunk (
    name BLOB    PRIMARY KEY,             -- first 16 bytes of the vault chunk id; keyed, so nobody can make two alike
    pack INTEGER NOT NULL                 -- pack.no
) STRICT, WITHOUT ROWID;

CREATE TABLE dismissed (
    point BLOB PRIMARY KEY                -- its id
) STRICT, WITHOUT ROWID;

CREATE TABLE doubted (
    hash BLOB    NOT NULL,
    copy INTEGER NOT NULL,
    PRIMARY KEY (hash, copy)
) STRICT, WITHOUT ROWID;

CREATE TABLE pack (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice
    kind    INTEGER NOT NULL,             -- type of the object
    ordinal INTEGER,                      -- in the realm; NULL: no commit names it yet
    hash    BLOB,                         -- NULL: not sealed yet; else put, or about to be
    copy    INTEGER NOT NULL DEFAULT 0,
    size    INTEGER NOT NULL DEFAULT 0,   -- bytes in the store
    salt    BLOB
) STRICT;

CREATE TABLE state (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    realm      BLOB    NOT NULL,
    generation INTEGER NOT NULL,          -- of the snapshot; 0: none yet
    head       BLOB    NOT NULL,          -- hash of that commit object
    checkpoint INTEGER NOT NULL,          -- generation of the newest checkpoint that was seen
    snapshot   BLOB    NOT NULL           -- sealed like a checkpoint; empty: none yet
) STRICT;

-- Packs that a look at the vault found lost or damaged, and that could not be replaced completely. What they hold counts as not copied.

CREATE TABLE doubted (
    hash BLOB    NOT NULL,
    copy INTEGER NOT NULL,
    PRIMARY KEY (hash, copy)
) STRICT, WITHOUT ROWID;

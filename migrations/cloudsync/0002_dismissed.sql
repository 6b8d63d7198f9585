-- Points that somebody forgot in the vault by name. Not copied again, also when the vault has nothing of them any more.

CREATE TABLE dismissed (
    point BLOB PRIMARY KEY                -- its id
) STRICT, WITHOUT ROWID;

CREATE TABLE alert (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What it is about: an active alert of the same key is the same alert.
    key TEXT NOT NULL,
    -- information, warning, critical
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    hint TEXT,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    count INTEGER NOT NULL,
    resolved INTEGER,
    acknowledged INTEGER,
    acknowledged_by TEXT,
    -- When it was told the last time, and whether its end was.
    told INTEGER,
    end_told INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX alert_active ON alert (key) WHERE resolved IS NULL;

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

CREATE TABLE fullness (
    day INTEGER PRIMARY KEY,
    used_bytes INTEGER NOT NULL,
    room_bytes INTEGER NOT NULL
) STRICT;

CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- "backup web", "sync web", "forget", "prune", "check"
    task TEXT NOT NULL,
    -- schedule, catch_up, retry, hand
    reason TEXT NOT NULL,
    -- queued, running, done, incomplete, failed, interrupted, cancelled
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    started INTEGER,
    finished INTEGER,
    -- The lock of the process that runs it: without its holder a running job was interrupted.
    session TEXT NOT NULL,
    -- The words of the command, as JSON; empty if the job cannot be run again from here.
    arguments TEXT NOT NULL,
    exit_code INTEGER,
    message TEXT,
    hint TEXT,
    -- The summary of the run, as JSON.
    summary TEXT,
    request TEXT
) STRICT;

CREATE INDEX job_by_state ON job (state) WHERE state IN ('queued', 'running');

CREATE INDEX job_by_task ON job (task, id);

CREATE TABLE owed_hook (
    group_name TEXT PRIMARY KEY,
    job INTEGER NOT NULL,
    since INTEGER NOT NULL,
    -- Command, time-out in seconds and user, as JSON.
    hook TEXT NOT NULL
) STRICT;

CREATE TABLE request (
    key TEXT PRIMARY KEY,
    body_hash INTEGER NOT NULL,
    job INTEGER NOT NULL,
    received INTEGER NOT NULL
) STRICT;

CREATE TABLE task (
    name TEXT PRIMARY KEY,
    -- The scheduled time up to which everything was begun.
    handled INTEGER NOT NULL,
    first_seen INTEGER NOT NULL,
    last_success INTEGER,
    -- Failures since the last success.
    failures INTEGER NOT NULL DEFAULT 0,
    -- Bytes that the last success looked at, and how long it took.
    last_bytes INTEGER,
    last_seconds REAL
) STRICT;

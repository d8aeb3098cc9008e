-- The columns of analytics::schema, in its order. Times are microseconds since 1970-01-01 UTC.
CREATE TABLE attempts (
    id TEXT NOT NULL UNIQUE,
    event_id TEXT NOT NULL,
    account TEXT NOT NULL,
    gateway TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    model_type TEXT NOT NULL,
    path TEXT NOT NULL,
    request_type TEXT NOT NULL,
    request_content_type TEXT NOT NULL,
    response_content_type TEXT NOT NULL,
    status_code INTEGER NOT NULL,
    success INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    step INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    decision TEXT NOT NULL,
    error_code TEXT NOT NULL,
    finish TEXT NOT NULL,
    tokens_in INTEGER,
    tokens_out INTEGER,
    cache_read INTEGER,
    cache_write_5m INTEGER,
    cache_write_1h INTEGER,
    cache_write_other INTEGER,
    reasoning INTEGER,
    in_audio INTEGER,
    in_image INTEGER,
    out_audio INTEGER,
    out_image INTEGER,
    seconds REAL,
    web_searches INTEGER,
    images INTEGER,
    characters INTEGER,
    search_units INTEGER,
    usage_source TEXT NOT NULL,
    usage_raw TEXT NOT NULL,
    tier TEXT NOT NULL,
    cost_pico INTEGER,
    custom_cost INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    duration_us INTEGER NOT NULL,
    first_byte_us INTEGER,
    user_agent TEXT NOT NULL,
    authentication INTEGER NOT NULL,
    byok INTEGER NOT NULL,
    request_size INTEGER NOT NULL,
    response_size INTEGER NOT NULL,
    upstream_request_id TEXT NOT NULL,
    malformed_events INTEGER NOT NULL,
    collect INTEGER NOT NULL
);

CREATE INDEX attempts_by_gateway ON attempts (account, gateway, created_at);
CREATE INDEX attempts_by_time ON attempts (created_at);

CREATE TABLE bodies (
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    gateway TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    request BLOB NOT NULL,
    response BLOB NOT NULL,
    request_complete INTEGER NOT NULL,
    response_complete INTEGER NOT NULL
);

CREATE INDEX bodies_by_time ON bodies (created_at);

CREATE TABLE requests (
    event_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    account TEXT NOT NULL,
    gateway TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    status_code INTEGER NOT NULL,
    success INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    decision TEXT NOT NULL,
    error_code TEXT NOT NULL,
    answered_by TEXT,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    first_byte_us INTEGER,
    tokens_in INTEGER,
    tokens_out INTEGER,
    cost_pico INTEGER,
    caller TEXT NOT NULL,
    metadata TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    collect INTEGER NOT NULL
);

CREATE INDEX requests_by_gateway ON requests (account, gateway, created_at);
CREATE INDEX requests_by_time ON requests (created_at);

-- Blocks that are in, written in the same transaction as their rows: a block that comes again after
-- a crash is known by its id.
CREATE TABLE blocks (
    id TEXT NOT NULL PRIMARY KEY,
    inserted_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX blocks_by_time ON blocks (inserted_at);

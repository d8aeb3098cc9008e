-- The columns of analytics::schema, in its order. Retention (TTL) is set from the configuration
-- when the store is opened. A block that comes again after a crash is dropped by its
-- insert_deduplication_token; the window counts inserts.
CREATE TABLE IF NOT EXISTS attempts (
    id String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    account LowCardinality(String),
    gateway LowCardinality(String),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String),
    model LowCardinality(String),
    model_type LowCardinality(String),
    path String CODEC(ZSTD(1)),
    request_type LowCardinality(String),
    request_content_type LowCardinality(String),
    response_content_type LowCardinality(String),
    status_code UInt16,
    success Bool,
    cached Bool,
    step UInt32 CODEC(T64, LZ4),
    attempt UInt32 CODEC(T64, LZ4),
    decision LowCardinality(String),
    error_code LowCardinality(String),
    finish LowCardinality(String),
    tokens_in Nullable(Int64) CODEC(T64, LZ4),
    tokens_out Nullable(Int64) CODEC(T64, LZ4),
    cache_read Nullable(Int64) CODEC(T64, LZ4),
    cache_write_5m Nullable(Int64) CODEC(T64, LZ4),
    cache_write_1h Nullable(Int64) CODEC(T64, LZ4),
    cache_write_other Nullable(Int64) CODEC(T64, LZ4),
    reasoning Nullable(Int64) CODEC(T64, LZ4),
    in_audio Nullable(Int64) CODEC(T64, LZ4),
    in_image Nullable(Int64) CODEC(T64, LZ4),
    out_audio Nullable(Int64) CODEC(T64, LZ4),
    out_image Nullable(Int64) CODEC(T64, LZ4),
    seconds Nullable(Float64) CODEC(ZSTD(1)),
    web_searches Nullable(Int64) CODEC(T64, LZ4),
    images Nullable(Int64) CODEC(T64, LZ4),
    characters Nullable(Int64) CODEC(T64, LZ4),
    search_units Nullable(Int64) CODEC(T64, LZ4),
    usage_source LowCardinality(String),
    usage_raw String CODEC(ZSTD(3)),
    tier LowCardinality(String),
    cost_pico Nullable(Int64) CODEC(T64, LZ4),
    custom_cost Bool,
    metadata String CODEC(ZSTD(3)),
    duration_us Int64 CODEC(T64, LZ4),
    first_byte_us Nullable(Int64) CODEC(T64, LZ4),
    user_agent LowCardinality(String),
    authentication Bool,
    byok Bool,
    request_size Int64 CODEC(T64, LZ4),
    response_size Int64 CODEC(T64, LZ4),
    upstream_request_id String CODEC(ZSTD(1)),
    malformed_events UInt32 CODEC(T64, LZ4),
    collect Bool,
    -- Rows are looked up by id too, which the order does not help with.
    INDEX attempts_id id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX attempts_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(created_at)
ORDER BY (account, gateway, created_at, id)
SETTINGS non_replicated_deduplication_window = 10000;

-- Small granules: a body is read one at a time.
CREATE TABLE IF NOT EXISTS bodies (
    id String CODEC(ZSTD(1)),
    account LowCardinality(String),
    gateway LowCardinality(String),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    request String CODEC(ZSTD(3)),
    response String CODEC(ZSTD(3)),
    request_complete Bool,
    response_complete Bool
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(created_at)
ORDER BY (account, gateway, id)
SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 256;

CREATE TABLE IF NOT EXISTS requests (
    event_id String CODEC(ZSTD(1)),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    account LowCardinality(String),
    gateway LowCardinality(String),
    method LowCardinality(String),
    path String CODEC(ZSTD(1)),
    status_code UInt16,
    success Bool,
    cached Bool,
    decision LowCardinality(String),
    error_code LowCardinality(String),
    answered_by Nullable(String) CODEC(ZSTD(1)),
    provider LowCardinality(String),
    model LowCardinality(String),
    attempts UInt32 CODEC(T64, LZ4),
    duration_us Int64 CODEC(T64, LZ4),
    first_byte_us Nullable(Int64) CODEC(T64, LZ4),
    tokens_in Nullable(Int64) CODEC(T64, LZ4),
    tokens_out Nullable(Int64) CODEC(T64, LZ4),
    cost_pico Nullable(Int64) CODEC(T64, LZ4),
    caller LowCardinality(String),
    metadata String CODEC(ZSTD(3)),
    user_agent LowCardinality(String),
    collect Bool,
    INDEX requests_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(created_at)
ORDER BY (account, gateway, created_at)
SETTINGS non_replicated_deduplication_window = 10000;

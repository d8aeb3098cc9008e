-- How long do callers wait for the first byte, and for the whole answer?
-- Milliseconds, of requests that a provider or the engine answered; the cache would hide their time.
SELECT
    toStartOfInterval(r.created_at, toIntervalSecond(greatest(1, intDiv(${__to} - ${__from}, 100000)))) AS time,
    quantile(0.5)(r.first_byte_us) / 1000 AS first_byte_p50,
    quantile(0.95)(r.first_byte_us) / 1000 AS first_byte_p95,
    quantile(0.5)(r.duration_us) / 1000 AS whole_p50,
    quantile(0.95)(r.duration_us) / 1000 AS whole_p95
FROM requests AS r
WHERE r.account IN (${account:sqlstring})
    AND r.gateway IN (${gateway:sqlstring})
    AND r.created_at >= fromUnixTimestamp64Milli(toInt64(${__from}))
    AND r.created_at < fromUnixTimestamp64Milli(toInt64(${__to}))
    AND r.success
    AND NOT r.cached
GROUP BY time
ORDER BY time

-- How many requests come in, and how do they end?
-- One row an interval; the four counts add up to all requests of it.
SELECT
    toStartOfInterval(r.created_at, toIntervalSecond(greatest(1, intDiv(${__to} - ${__from}, 100000)))) AS time,
    countIf(r.success AND NOT r.cached) AS answered,
    countIf(r.success AND r.cached) AS cached,
    countIf(NOT r.success AND r.decision = 'rate_limited') AS rate_limited,
    countIf(NOT r.success AND r.decision != 'rate_limited') AS failed
FROM requests AS r
WHERE r.account IN (${account:sqlstring})
    AND r.gateway IN (${gateway:sqlstring})
    AND r.created_at >= fromUnixTimestamp64Milli(toInt64(${__from}))
    AND r.created_at < fromUnixTimestamp64Milli(toInt64(${__to}))
GROUP BY time
ORDER BY time

-- What is spent, and on which models?
-- From the tries, not the requests: a try whose answer nobody got may have cost money too.
-- `unpriced` counts answers whose price or usage is not known; the cost leaves them out.
SELECT
    a.provider AS provider,
    a.model AS model,
    count() AS tries,
    sum(ifNull(a.tokens_in, 0)) AS tokens_in,
    sum(ifNull(a.tokens_out, 0)) AS tokens_out,
    sum(ifNull(a.cost_pico, 0)) / 1e12 AS cost_usd,
    countIf(a.success AND a.cost_pico IS NULL) AS unpriced
FROM attempts AS a
WHERE a.account IN (${account:sqlstring})
    AND a.gateway IN (${gateway:sqlstring})
    AND a.created_at >= fromUnixTimestamp64Milli(toInt64(${__from}))
    AND a.created_at < fromUnixTimestamp64Milli(toInt64(${__to}))
    AND NOT a.cached
GROUP BY provider, model
ORDER BY cost_usd DESC, provider, model

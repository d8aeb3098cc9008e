-- How many requests were answered only because the gateway tried again or went elsewhere?
-- By the provider that answered: `retried` on the same target, `fell_back` on a later step.
SELECT
    r.provider AS provider,
    count() AS answered,
    countIf(r.decision = 'retry') AS retried,
    countIf(r.decision = 'fallback') AS fell_back
FROM requests AS r
WHERE r.account IN (${account:sqlstring})
    AND r.gateway IN (${gateway:sqlstring})
    AND r.created_at >= fromUnixTimestamp64Milli(toInt64(${__from}))
    AND r.created_at < fromUnixTimestamp64Milli(toInt64(${__to}))
    AND r.success
    AND NOT r.cached
GROUP BY provider
ORDER BY answered DESC, provider

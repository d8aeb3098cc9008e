-- Which providers fail, and in what way?
-- Tries, with the gateway's own error code or else the provider's status. Tries that our own limit
-- refused, or whose caller left, say nothing about the provider.
SELECT
    a.provider AS provider,
    if(a.error_code = '', toString(a.status_code), toString(a.error_code)) AS failure,
    count() AS tries,
    max(a.created_at) AS last
FROM attempts AS a
WHERE a.account IN (${account:sqlstring})
    AND a.gateway IN (${gateway:sqlstring})
    AND a.created_at >= fromUnixTimestamp64Milli(toInt64(${__from}))
    AND a.created_at < fromUnixTimestamp64Milli(toInt64(${__to}))
    AND NOT a.success
    AND a.decision NOT IN ('rate_limited', 'client_gone')
GROUP BY provider, failure
ORDER BY tries DESC, provider, failure

//! Questions. Values are bound by the client, which escapes them.

use std::future::Future;
use std::time::Duration;

use clickhouse::query::Query;
use clickhouse::{Client, Row};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Blob, Reader};
use crate::error::Error;
use crate::query::sql::{self, Dialect, Param};
use crate::query::{Extent, Extents, LogPage, LogQuery};
use crate::record::{AttemptRow, Bodies, RequestRow};

#[derive(Row, Deserialize)]
struct StoredBody {
    request: Blob<Vec<u8>>,
    response: Blob<Vec<u8>>,
    request_complete: bool,
    response_complete: bool,
}

#[derive(Row, Deserialize)]
struct Totals {
    count: u64,
    extents: [(i64, i64); 5],
}

impl Reader {
    pub async fn list(&self, query: LogQuery) -> Result<LogPage, Error> {
        let conditions = sql::conditions(Dialect::ClickHouse, &query)?;
        self.ask(async |client| {
            let (total_count, extents) = if query.with_extents {
                let text = format!(
                    "SELECT {} FROM attempts WHERE {}",
                    sql::totals(),
                    conditions.text
                );
                let totals = bind(client.query(&text), &conditions.params)
                    .fetch_one::<Totals>()
                    .await?;
                (totals.count, Some(read_extents(totals.extents)))
            } else {
                let text = format!("SELECT count() FROM attempts WHERE {}", conditions.text);
                (
                    bind(client.query(&text), &conditions.params)
                        .fetch_one::<u64>()
                        .await?,
                    None,
                )
            };
            let page = sql::order_and_page(&query);
            let text = format!(
                "SELECT ?fields FROM attempts WHERE {} {page}",
                conditions.text
            );
            let rows = bind(client.query(&text), &conditions.params)
                .fetch_all::<AttemptRow>()
                .await?;
            Ok(LogPage {
                rows,
                total_count,
                extents,
            })
        })
        .await
    }

    pub async fn get(
        &self,
        account: &str,
        gateway: &str,
        id: &str,
    ) -> Result<Option<AttemptRow>, Error> {
        self.ask(async |client| {
            let text = "SELECT ?fields FROM attempts WHERE account = ? AND gateway = ? AND id = ? AND collect = 1 LIMIT 1";
            client.query(text).bind(account).bind(gateway).bind(id).fetch_optional().await
        })
        .await
    }

    pub async fn body(
        &self,
        account: &str,
        gateway: &str,
        id: &str,
    ) -> Result<Option<Bodies>, Error> {
        let stored: Option<StoredBody> = self
            .ask(async |client| {
                let text = "SELECT ?fields FROM bodies WHERE account = ? AND gateway = ? AND id = ? LIMIT 1";
                client.query(text).bind(account).bind(gateway).bind(id).fetch_optional().await
            })
            .await?;
        Ok(stored.map(|stored| Bodies {
            request: stored.request.0,
            response: stored.response.0,
            request_complete: stored.request_complete,
            response_complete: stored.response_complete,
        }))
    }

    pub async fn requests(
        &self,
        account: &str,
        gateway: &str,
        limit: usize,
    ) -> Result<Vec<RequestRow>, Error> {
        self.ask(async |client| {
            let text = "SELECT ?fields FROM requests WHERE account = ? AND gateway = ? ORDER BY created_at DESC, event_id DESC LIMIT ?";
            client.query(text).bind(account).bind(gateway).bind(limit).fetch_all().await
        })
        .await
    }

    pub async fn health(&self) -> Result<(), Error> {
        self.ask(async |client| client.query("SELECT 1").fetch_one::<u8>().await)
            .await
            .map(|_| ())
    }

    /// Runs `question` within the time limit; making the tables, where that is still to do, counts.
    async fn ask<T, F>(&self, question: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = clickhouse::error::Result<T>>,
    {
        let limited = timeout(self.time_limit, async {
            let client = self.server.ready().await?;
            let seconds = self.time_limit.max(Duration::from_secs(1)).as_secs();
            question(client.with_setting("max_execution_time", seconds.to_string()))
                .await
                .map_err(|error| self.server.failed(error))
        });
        let too_slow = || {
            Error::Unavailable(format!(
                "no answer within {} ms",
                self.time_limit.as_millis()
            ))
        };
        limited.await.unwrap_or_else(|_| Err(too_slow()))
    }
}

fn bind(query: Query, params: &[Param]) -> Query {
    params.iter().fold(query, |query, param| match param {
        Param::Text(text) => query.bind(text),
        Param::Integer(number) => query.bind(number),
    })
}

fn read_extents(found: [(i64, i64); 5]) -> Extents {
    let [cost_pico, duration_us, tokens_in, tokens_out, total_tokens] =
        found.map(|(min, max)| Extent { min, max });
    Extents {
        cost_pico,
        duration_us,
        tokens_in,
        tokens_out,
        total_tokens,
    }
}

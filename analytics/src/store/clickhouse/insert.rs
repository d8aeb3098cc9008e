//! A block as one insert a table, each with a token by which the server drops it when it comes
//! again. The tables are independent: a block cut short between them is sent again whole.

use clickhouse::{Client, Row, RowWrite};
use serde::Serialize;
use tokio::time::timeout;

use super::failure::{describe, is_about_content};
use super::{Blob, Writer};
use crate::dead_letter::Refused;
use crate::error::Error;
use crate::record::{AttemptRow, LogRecord, RequestRow};
use crate::schema::BODIES;
use crate::store::parts::Parts;

/// A row of the `bodies` table.
#[derive(Row, Serialize)]
struct BodyRow<'a> {
    id: &'a str,
    account: &'a str,
    gateway: &'a str,
    created_at: i64,
    request: Blob<&'a [u8]>,
    response: Blob<&'a [u8]>,
    request_complete: bool,
    response_complete: bool,
}

impl Writer {
    pub async fn insert(
        &mut self,
        block: &str,
        records: &[LogRecord],
    ) -> Result<Vec<Refused>, Error> {
        let client = timeout(self.time_limit, self.server.ready())
            .await
            .map_err(|_| self.too_slow())??;
        let mut requests = Vec::with_capacity(records.len());
        let mut attempts = Vec::with_capacity(records.len());
        let mut bodies = Vec::new();
        for (index, record) in records.iter().enumerate() {
            requests.push((index, &record.request));
            for attempt in &record.attempts {
                attempts.push((index, attempt));
                bodies.extend(attempt.body.as_ref().map(|body| {
                    let row = BodyRow {
                        id: &attempt.id,
                        account: &attempt.account,
                        gateway: &attempt.gateway,
                        created_at: attempt.created_at_us,
                        request: Blob(&body.request),
                        response: Blob(&body.response),
                        request_complete: body.request_complete,
                        response_complete: body.response_complete,
                    };
                    (index, row)
                }));
            }
        }
        let bodies: Vec<(usize, &BodyRow<'_>)> =
            bodies.iter().map(|(index, row)| (*index, row)).collect();
        let mut refused = Vec::new();
        self.insert_rows::<AttemptRow>(
            &client,
            AttemptRow::TABLE.name,
            block,
            &attempts,
            &mut refused,
        )
        .await?;
        self.insert_rows::<BodyRow<'_>>(&client, BODIES.name, block, &bodies, &mut refused)
            .await?;
        self.insert_rows::<RequestRow>(
            &client,
            RequestRow::TABLE.name,
            block,
            &requests,
            &mut refused,
        )
        .await?;
        // A record refused in two tables is one dead letter.
        refused.sort_by_key(|refusal| refusal.index);
        refused.dedup_by_key(|refusal| refusal.index);
        Ok(refused)
    }

    async fn insert_rows<R: RowWrite>(
        &self,
        client: &Client,
        table: &str,
        block: &str,
        rows: &[(usize, &R::Value<'_>)],
        refused: &mut Vec<Refused>,
    ) -> Result<(), Error> {
        let mut parts = Parts::of(block, rows.len());
        while let Some(part) = parts.next() {
            let insert = insert_part::<R>(client, table, &part.id, &rows[part.range.clone()]);
            match timeout(self.time_limit, insert)
                .await
                .map_err(|_| self.too_slow())?
            {
                Ok(()) => {}
                Err(error) if !is_about_content(&error) => return Err(self.server.failed(error)),
                Err(_) if parts.halve(&part) => {}
                Err(error) => {
                    let index = rows[part.range.start].0;
                    refused.push(Refused {
                        index,
                        error: describe(&error),
                    });
                }
            }
        }
        Ok(())
    }

    fn too_slow(&self) -> Error {
        Error::Unavailable(format!(
            "no answer to an insert within {} ms",
            self.time_limit.as_millis()
        ))
    }
}

async fn insert_part<R: RowWrite>(
    client: &Client,
    table: &str,
    token: &str,
    rows: &[(usize, &R::Value<'_>)],
) -> clickhouse::error::Result<()> {
    let mut insert = client
        .insert::<R>(table)
        .await?
        .with_setting("insert_deduplicate", "1")
        .with_setting("insert_deduplication_token", token)
        // Buffered inserts are answered before they are in, and without regard to the token.
        .with_setting("async_insert", "0")
        .with_setting("wait_end_of_query", "1")
        // A block may hold rows of many days after a long outage.
        .with_setting("max_partitions_per_insert_block", "0");
    for (_, row) in rows {
        insert.write(row).await?;
    }
    insert.end().await
}

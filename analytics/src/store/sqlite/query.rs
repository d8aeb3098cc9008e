//! Questions, on blocking threads, each with a turn and a time limit.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, ToSql, params, params_from_iter};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{connect, failed, to_cell};
use crate::error::Error;
use crate::query::sql::{self, Dialect, Param};
use crate::query::{Extent, Extents, LogPage, LogQuery};
use crate::record::{AttemptRow, Bodies, RequestRow};

const TIME_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Reader {
    pub(super) path: Arc<Path>,
    pub(super) idle: Arc<Mutex<Vec<Connection>>>,
    pub(super) turns: Arc<Semaphore>,
}

impl Reader {
    pub async fn list(&self, query: LogQuery) -> Result<LogPage, Error> {
        let conditions = sql::conditions(Dialect::Sqlite, &query)?;
        self.ask(move |connection| {
            let totals = if query.with_extents {
                sql::totals()
            } else {
                "count(*)".into()
            };
            let text = format!("SELECT {totals} FROM attempts WHERE {}", conditions.text);
            let (total_count, extents) = connection.prepare_cached(&text)?.query_row(
                params_from_iter(&conditions.params),
                |row| {
                    let total_count: i64 = row.get(0)?;
                    let extents = query.with_extents.then(|| read_extents(row)).transpose()?;
                    Ok((total_count as u64, extents))
                },
            )?;
            let text = format!(
                "SELECT {} FROM attempts WHERE {} {}",
                AttemptRow::TABLE.column_names(),
                conditions.text,
                sql::order_and_page(&query)
            );
            let mut statement = connection.prepare_cached(&text)?;
            let rows = statement.query_map(params_from_iter(&conditions.params), read_attempt)?;
            Ok(LogPage {
                rows: rows.collect::<rusqlite::Result<_>>()?,
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
        let keys = [account.to_string(), gateway.to_string(), id.to_string()];
        self.ask(move |connection| {
            let text = format!(
                "SELECT {} FROM attempts WHERE account = ? AND gateway = ? AND id = ? AND collect = 1",
                AttemptRow::TABLE.column_names()
            );
            connection.prepare_cached(&text)?.query_row(params_from_iter(keys), read_attempt).optional()
        })
        .await
    }

    pub async fn body(
        &self,
        account: &str,
        gateway: &str,
        id: &str,
    ) -> Result<Option<Bodies>, Error> {
        let keys = [account.to_string(), gateway.to_string(), id.to_string()];
        self.ask(move |connection| {
            connection
                .prepare_cached(
                    "SELECT request, response, request_complete, response_complete FROM bodies
                     WHERE account = ? AND gateway = ? AND id = ?",
                )?
                .query_row(params_from_iter(keys), |row| {
                    Ok(Bodies {
                        request: row.get(0)?,
                        response: row.get(1)?,
                        request_complete: row.get(2)?,
                        response_complete: row.get(3)?,
                    })
                })
                .optional()
        })
        .await
    }

    pub async fn requests(
        &self,
        account: &str,
        gateway: &str,
        limit: usize,
    ) -> Result<Vec<RequestRow>, Error> {
        let keys = (
            account.to_string(),
            gateway.to_string(),
            limit.min(i64::MAX as usize) as i64,
        );
        self.ask(move |connection| {
            let text = format!(
                "SELECT {} FROM requests WHERE account = ? AND gateway = ? ORDER BY created_at DESC, event_id DESC LIMIT ?",
                RequestRow::TABLE.column_names()
            );
            let mut statement = connection.prepare_cached(&text)?;
            let rows = statement.query_map(params![keys.0, keys.1, keys.2], |row| {
                read_cells(row, RequestRow::TABLE.columns.len(), |cells| RequestRow::from_cells(cells))
            })?;
            rows.collect()
        })
        .await
    }

    pub async fn health(&self) -> Result<(), Error> {
        self.ask(|connection| {
            connection
                .query_row("SELECT 1 FROM blocks LIMIT 1", [], |_| Ok(()))
                .optional()
        })
        .await
        .map(|_| ())
    }

    /// Runs `question` on a connection of its own, within the time limit.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + TIME_LIMIT;
        let too_slow =
            |_| Error::Unavailable(format!("no answer within {} s", TIME_LIMIT.as_secs()));
        let turn = timeout_at(deadline, self.turns.clone().acquire_owned())
            .await
            .map_err(too_slow)?
            .expect("the semaphore is never closed");
        let idle = self
            .idle
            .lock()
            .expect("nothing panics under this lock")
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?,
        };
        let interrupt = connection.get_interrupt_handle();
        let pool = self.idle.clone();
        let work = tokio::task::spawn_blocking(move || {
            let answer = question(&connection);
            pool.lock()
                .expect("nothing panics under this lock")
                .push(connection);
            drop(turn);
            answer
        });
        match timeout_at(deadline, work).await {
            Ok(Ok(answer)) => answer.map_err(failed),
            Ok(Err(join)) => Err(Error::Unavailable(format!(
                "the question was not finished: {join}"
            ))),
            Err(elapsed) => {
                interrupt.interrupt(); // ends the work, which gives its turn back
                Err(too_slow(elapsed))
            }
        }
    }
}

fn read_attempt(row: &Row<'_>) -> rusqlite::Result<AttemptRow> {
    read_cells(row, AttemptRow::TABLE.columns.len(), |cells| {
        AttemptRow::from_cells(cells)
    })
}

fn read_cells<'a, T>(
    row: &'a Row<'_>,
    columns: usize,
    read: impl FnOnce(&mut dyn Iterator<Item = crate::schema::Cell<'a>>) -> Result<T, &'static str>,
) -> rusqlite::Result<T> {
    let mut cells = (0..columns).map_while(|index| row.get_ref(index).ok().map(to_cell));
    read(&mut cells).map_err(|column| {
        rusqlite::Error::InvalidColumnType(0, column.into(), rusqlite::types::Type::Null)
    })
}

fn read_extents(row: &Row<'_>) -> rusqlite::Result<Extents> {
    let extent = |index: usize| {
        Ok::<_, rusqlite::Error>(Extent {
            min: row.get(index)?,
            max: row.get(index + 1)?,
        })
    };
    Ok(Extents {
        cost_pico: extent(1)?,
        duration_us: extent(3)?,
        tokens_in: extent(5)?,
        tokens_out: extent(7)?,
        total_tokens: extent(9)?,
    })
}

impl ToSql for Param {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Param::Text(text) => text.to_sql(),
            Param::Integer(number) => number.to_sql(),
        }
    }
}

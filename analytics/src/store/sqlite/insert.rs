//! A block in one transaction together with its id, so that it is in whole or not at all, and once.

use std::time::SystemTime;

use rusqlite::{Connection, ErrorCode, params, params_from_iter};

use super::{Writer, failed};
use crate::dead_letter::Refused;
use crate::error::Error;
use crate::record::{AttemptRow, LogRecord, RequestRow};
use crate::schema::{BODIES, Table};
use crate::store::parts::Parts;

impl Writer {
    pub fn insert(&mut self, block: &str, records: &[LogRecord]) -> Result<Vec<Refused>, Error> {
        let connection = self.connection()?;
        let mut refused = Vec::new();
        let mut parts = Parts::of(block, records.len());
        while let Some(part) = parts.next() {
            match insert_part(connection, &part.id, &records[part.range.clone()]) {
                Ok(()) => {}
                Err(error) if !is_about_content(&error) => return Err(failed(error)),
                Err(_) if parts.halve(&part) => {}
                Err(error) => {
                    refused.push(Refused {
                        index: part.range.start,
                        error: error.to_string(),
                    });
                }
            }
        }
        Ok(refused)
    }
}

fn insert_part(
    connection: &mut Connection,
    id: &str,
    records: &[LogRecord],
) -> rusqlite::Result<()> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let now_us = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_micros() as i64);
    let is_new = transaction
        .prepare_cached("INSERT OR IGNORE INTO blocks (id, inserted_at) VALUES (?, ?)")?
        .execute(params![id, now_us])?;
    if is_new == 0 {
        return Ok(()); // inserted before a crash that lost the acknowledgement
    }
    {
        let mut request = transaction.prepare_cached(&insert_into(&RequestRow::TABLE))?;
        let mut attempt = transaction.prepare_cached(&insert_into(&AttemptRow::TABLE))?;
        let mut body = transaction.prepare_cached(&insert_into(&BODIES))?;
        for record in records {
            request.execute(params_from_iter(record.request.cells()))?;
            for row in &record.attempts {
                attempt.execute(params_from_iter(row.cells()))?;
                if let Some(bodies) = &row.body {
                    body.execute(params![
                        row.id,
                        row.account,
                        row.gateway,
                        row.created_at_us,
                        bodies.request,
                        bodies.response,
                        bodies.request_complete,
                        bodies.response_complete,
                    ])?;
                }
            }
        }
    }
    transaction.commit()
}

fn insert_into(table: &Table) -> String {
    let values = vec!["?"; table.columns.len()].join(", ");
    format!(
        "INSERT INTO {} ({}) VALUES ({values})",
        table.name,
        table.column_names()
    )
}

/// Whether the rows themselves are at fault, so that sending them again cannot help.
fn is_about_content(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}

//! The numbered files of `migrations/sqlite`, each applied once. `user_version` says how many were.

use rusqlite::{Connection, TransactionBehavior};

use super::failed;
use crate::error::Error;

const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_request_log.sql"),
    include_str!("../../../migrations/sqlite/0002_neurons.sql"),
];

pub(super) fn migrate(connection: &mut Connection) -> Result<(), Error> {
    // Immediate: of two processes that start at once, the second finds the work done.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let applied: i64 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    let known = MIGRATIONS.len() as i64;
    if applied > known {
        return Err(Error::Unreadable(format!(
            "logs.sqlite has schema {applied}, this version knows {known}; start the newer version, or move the file away"
        )));
    }
    for migration in &MIGRATIONS[applied.max(0) as usize..] {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn the_tables_have_the_columns_of_the_list() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        for table in schema::tables() {
            let mut statement = connection
                .prepare(&format!("PRAGMA table_info({})", table.name))
                .unwrap();
            let found: Vec<(String, String, bool)> = statement
                .query_map([], |row| Ok((row.get(1)?, row.get(2)?, row.get(3)?)))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let expected: Vec<(String, String, bool)> = table
                .columns
                .iter()
                .map(|column| {
                    (
                        column.name.into(),
                        column.kind.sqlite().into(),
                        !column.kind.is_nullable(),
                    )
                })
                .collect();
            assert_eq!(found, expected, "table {}", table.name);
        }
    }

    #[test]
    fn rows_of_an_older_version_stay() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let columns = &crate::AttemptRow::TABLE.columns;
        let old = &columns[..columns.len() - 1];
        let names: Vec<&str> = old.iter().map(|column| column.name).collect();
        let insert = format!(
            "INSERT INTO attempts ({}) VALUES ({})",
            names.join(", "),
            vec!["1"; names.len()].join(", ")
        );
        connection.execute(&insert, []).unwrap();
        migrate(&mut connection).unwrap();
        let found: (String, Option<f64>) = connection
            .query_row("SELECT id, neurons FROM attempts", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(found, ("1".to_owned(), None));
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(
            migrate(&mut connection)
                .unwrap_err()
                .to_string()
                .contains("99")
        );
    }
}

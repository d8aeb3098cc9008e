//! The numbered files of `migrations/clickhouse`, each applied once and noted in the table
//! `migrations`; then retention, which follows the configuration. Every statement may run twice, so
//! two processes that start at once do no harm.

use clickhouse::Client;

use super::Server;
use super::failure::failed;
use crate::error::Error;

const MIGRATIONS: &[(u32, &str)] = &[
    (
        1,
        include_str!("../../../migrations/clickhouse/0001_request_log.sql"),
    ),
    (
        2,
        include_str!("../../../migrations/clickhouse/0002_neurons.sql"),
    ),
];

pub(super) async fn migrate(server: &Server) -> Result<(), Error> {
    let database = &server.database;
    let exists: u64 = server
        .client
        .query("SELECT count() FROM system.databases WHERE name = ?")
        .bind(database)
        .fetch_one()
        .await
        .map_err(failed)?;
    if exists == 0 {
        // Only now: a user without this right can work in a database made for it.
        let create = server.client.query("CREATE DATABASE IF NOT EXISTS ?");
        create
            .bind(clickhouse::sql::Identifier(database))
            .execute()
            .await
            .map_err(failed)?;
    }
    let client = server.client.clone().with_database(database);
    execute(
        &client,
        "CREATE TABLE IF NOT EXISTS migrations (version UInt32, applied_at DateTime DEFAULT now())
         ENGINE = ReplacingMergeTree ORDER BY version",
    )
    .await?;
    let applied: u32 = client
        .query("SELECT max(version) FROM migrations")
        .fetch_one()
        .await
        .map_err(failed)?;
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if applied > known {
        return Err(Error::Unreadable(format!(
            "database `{database}` has schema {applied}, this version knows {known}; start the newer version, or choose another database"
        )));
    }
    for (version, file) in MIGRATIONS.iter().filter(|(version, _)| *version > applied) {
        for statement in statements(file) {
            execute(&client, statement).await?;
        }
        execute(
            &client,
            &format!("INSERT INTO migrations (version) VALUES ({version})"),
        )
        .await?;
    }
    let bodies_days = match (server.body_retention_days, server.retention_days) {
        (0, days) | (days, 0) => days,
        (bodies, rows) => bodies.min(rows), // a body does not outlive its row
    };
    for (table, days) in [
        ("attempts", server.retention_days),
        ("requests", server.retention_days),
        ("bodies", bodies_days),
    ] {
        set_retention(&client, database, table, days).await?;
    }
    Ok(())
}

/// Sets the table's TTL where it differs: an ALTER rewrites parts, so not at each start.
async fn set_retention(
    client: &Client,
    database: &str,
    table: &str,
    days: u32,
) -> Result<(), Error> {
    let ddl: String = client
        .query("SELECT create_table_query FROM system.tables WHERE database = ? AND name = ?")
        .bind(database)
        .bind(table)
        .fetch_one()
        .await
        .map_err(failed)?;
    let has_ttl = ddl.contains(" TTL ");
    if days == 0 {
        if has_ttl {
            execute(client, &format!("ALTER TABLE {table} REMOVE TTL")).await?;
        }
        return Ok(());
    }
    let ttl = format!("TTL toDateTime(created_at) + toIntervalDay({days})");
    if !ddl.contains(&ttl) {
        execute(client, &format!("ALTER TABLE {table} MODIFY {ttl}")).await?;
    }
    Ok(())
}

async fn execute(client: &Client, statement: &str) -> Result<(), Error> {
    client.query_raw(statement).execute().await.map_err(failed)
}

/// The statements of a file; each ends with `;` at the end of a line.
fn statements(file: &str) -> impl Iterator<Item = &str> {
    file.split(";\n")
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    /// The columns of a `CREATE TABLE` as name and type, codecs left out.
    fn columns(statement: &str) -> Vec<(String, String)> {
        let lines = statement
            .lines()
            .skip_while(|line| !line.starts_with("CREATE TABLE"))
            .skip(1);
        lines
            .map(str::trim)
            .take_while(|line| *line != ")")
            .filter(|line| !line.starts_with("--") && !line.starts_with("INDEX "))
            .map(|line| {
                let (name, rest) = line.split_once(' ').unwrap();
                let kind = rest.split(" CODEC").next().unwrap().trim_end_matches(',');
                (name.to_string(), kind.to_string())
            })
            .collect()
    }

    /// What a statement adds to a table that is there already.
    fn added<'s>(statement: &'s str, table: &str) -> Option<(String, String)> {
        let start = format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS ");
        let line: &'s str = statement.lines().find(|line| line.starts_with(&start))?;
        let (name, rest) = line[start.len()..].split_once(' ').unwrap();
        let kind = rest.split(" CODEC").next().unwrap();
        Some((name.to_string(), kind.to_string()))
    }

    #[test]
    fn the_tables_have_the_columns_of_the_list() {
        let statements: Vec<&str> = MIGRATIONS
            .iter()
            .flat_map(|(_, file)| statements(file))
            .collect();
        for table in schema::tables() {
            let start = format!("CREATE TABLE IF NOT EXISTS {} (", table.name);
            let statement = statements
                .iter()
                .find(|statement| statement.contains(&start))
                .unwrap();
            let expected: Vec<(String, String)> = table
                .columns
                .iter()
                .map(|column| (column.name.into(), column.kind.clickhouse().into()))
                .collect();
            let mut found = columns(statement);
            let more = statements.iter();
            found.extend(more.filter_map(|statement| added(statement, table.name)));
            assert_eq!(found, expected, "table {}", table.name);
        }
    }
}

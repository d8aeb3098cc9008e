//! Both stores hold the same rows, field by field.

mod support;

use analytics::AttemptRow;
use support::{all_attempts, clickhouse_url, filled};

#[tokio::test]
async fn clickhouse_rows_equal_sqlite_rows_field_by_field() {
    let Some(url) = clickhouse_url("clickhouse_rows_equal_sqlite_rows_field_by_field") else {
        return;
    };
    let (sqlite, clickhouse) = (filled(None).await, filled(Some(url)).await);
    let (one, other) = (
        all_attempts(&sqlite.store).await,
        all_attempts(&clickhouse.store).await,
    );
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        for (column, (one, other)) in AttemptRow::TABLE
            .columns
            .iter()
            .zip(one.cells().iter().zip(other.cells()))
        {
            assert_eq!(one, &other, "column {}", column.name);
        }
        let (one_body, other_body) = (
            sqlite.store.body("acct", "gw", &one.id).await.unwrap(),
            clickhouse.store.body("acct", "gw", &one.id).await.unwrap(),
        );
        assert_eq!(one_body, other_body);
    }
    let one = sqlite.store.requests("acct", "gw", 1_000).await.unwrap();
    let other = clickhouse
        .store
        .requests("acct", "gw", 1_000)
        .await
        .unwrap();
    assert_eq!(one, other);
}

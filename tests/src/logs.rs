//! The logs API as an operator reads it.

use crate::http::find;
use crate::{Answer, Request, TestGateway, eventually};
use serde_json::Value;

/// One row of the logs API.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Value);

impl Row {
    pub fn text(&self, field: &str) -> &str {
        self.0[field]
            .as_str()
            .unwrap_or_else(|| panic!("`{field}` is no text in {:#}", self.0))
    }

    /// A number, or `None` when the field is null.
    pub fn number(&self, field: &str) -> Option<f64> {
        match &self.0[field] {
            Value::Null => None,
            value => Some(
                value
                    .as_f64()
                    .unwrap_or_else(|| panic!("`{field}` is no number in {:#}", self.0)),
            ),
        }
    }

    pub fn is(&self, field: &str) -> bool {
        self.0[field]
            .as_bool()
            .unwrap_or_else(|| panic!("`{field}` is no switch in {:#}", self.0))
    }

    pub fn status(&self) -> u16 {
        self.number("status_code")
            .expect("every row has a status_code") as u16
    }

    pub fn step(&self) -> u64 {
        self.number("step").expect("every row has a step") as u64
    }

    /// Whether `words` stands anywhere in the row, in any letter case: for columns whose exact
    /// wording is not a promise.
    pub fn mentions(&self, words: &str) -> bool {
        let text = self.0.to_string().to_ascii_lowercase();
        find(text.as_bytes(), words.to_ascii_lowercase().as_bytes()).is_some()
    }
}

pub fn logs_path(account: &str, gateway: &str) -> String {
    format!("/client/v4/accounts/{account}/ai-gateway/gateways/{gateway}/logs")
}

impl TestGateway {
    /// All rows of a gateway, oldest first, as they stand now.
    pub async fn rows_now(&self, account: &str, gateway: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        for page in 1.. {
            let query =
                format!("per_page=50&page={page}&order_by=created_at&order_by_direction=asc");
            let answer = self
                .send(&Request::get(&format!(
                    "{}?{query}",
                    logs_path(account, gateway)
                )))
                .await;
            let body = answer.expect_status(200).json();
            let found = body["result"]
                .as_array()
                .unwrap_or_else(|| panic!("result is no list in {body:#}"))
                .clone();
            let is_last = found.len() < 50;
            rows.extend(found.into_iter().map(Row));
            if is_last {
                break;
            }
        }
        rows
    }

    /// Waits for at least `count` rows, and answers all there are, oldest first.
    pub async fn rows(&self, account: &str, gateway: &str, count: usize) -> Vec<Row> {
        self.rows_where(account, gateway, count, |_| true).await
    }

    /// Waits for the `count` rows of one answer, in the order of the tries.
    ///
    /// A request's rows are written together, so what is there beside them is all there will be.
    #[track_caller]
    pub fn rows_of(&self, answer: &Answer, count: usize) -> impl Future<Output = Vec<Row>> + '_ {
        let event_id = answer.event_id();
        async move {
            let rows = self
                .rows_where("default", "default", count, |row| {
                    row.text("event_id") == event_id
                })
                .await;
            assert_eq!(rows.len(), count, "rows of one request: {rows:#?}");
            rows
        }
    }

    async fn rows_where(
        &self,
        account: &str,
        gateway: &str,
        count: usize,
        wanted: impl Fn(&Row) -> bool,
    ) -> Vec<Row> {
        eventually(
            &format!("{count} rows in {account}/{gateway}"),
            async || {
                let rows: Vec<Row> = self
                    .rows_now(account, gateway)
                    .await
                    .into_iter()
                    .filter(&wanted)
                    .collect();
                (rows.len() >= count).then_some(rows)
            },
        )
        .await
    }

    /// The row that answered, found by `cf-aig-log-id`.
    pub async fn answering_row(&self, answer: &Answer) -> Row {
        let id = answer
            .header("cf-aig-log-id")
            .expect("every answer carries cf-aig-log-id");
        let path = format!("{}/{id}", logs_path("default", "default"));
        eventually(&format!("row {id}"), async || {
            let found = self.send(&Request::get(&path)).await;
            (found.status == 200).then(|| Row(found.json()["result"].clone()))
        })
        .await
    }
}

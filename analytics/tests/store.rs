//! One suite of questions, asked of each store.

mod support;

use analytics::{Error, Filter, FilterKey, LogQuery, Operator, OrderBy};
use support::{Opened, RECORDS, all_attempts, query, record};

macro_rules! suite {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::support::filled(None).await).await;
            })*
        }
        mod clickhouse_server {
            $(#[tokio::test]
            async fn $test() {
                if let Some(url) = super::support::clickhouse_url(stringify!($test)) {
                    super::$test(super::support::filled(Some(url)).await).await;
                }
            })*
        }
    };
}

suite! {
    every_field_comes_back
    bodies_come_back_byte_for_byte
    pages_cover_all_rows_once_and_end_empty
    order_follows_the_column_then_time
    filters_agree_with_the_rows
    metadata_filters_ask_for_one_entry
    search_looks_everywhere_without_case
    extents_are_those_of_the_matching_rows
    rows_not_collected_are_counted_but_not_shown
    gateways_do_not_see_each_other
    a_wrong_question_is_the_askers_fault
    hostile_text_is_only_text
}

async fn every_field_comes_back(opened: Opened) {
    let mut expected_attempts = Vec::new();
    let mut expected_requests = Vec::new();
    for number in 0..RECORDS {
        let record = record(number);
        expected_requests.insert(0, record.request);
        expected_attempts.extend(record.attempts.into_iter().map(|mut row| {
            row.body = None;
            row
        }));
    }
    assert_eq!(all_attempts(&opened.store).await, expected_attempts);
    assert_eq!(
        opened.store.requests("acct", "gw", 1_000).await.unwrap(),
        expected_requests
    );
    let one = &expected_attempts[7];
    assert_eq!(
        opened
            .store
            .get("acct", "gw", &one.id)
            .await
            .unwrap()
            .as_ref(),
        Some(one)
    );
    assert_eq!(
        opened.store.get("acct", "gw", "01NONE").await.unwrap(),
        None
    );
    opened.store.health().await.unwrap();
}

async fn bodies_come_back_byte_for_byte(opened: Opened) {
    for number in 0..RECORDS {
        for attempt in record(number).attempts {
            let stored = opened.store.body("acct", "gw", &attempt.id).await.unwrap();
            assert_eq!(stored, attempt.body, "attempt {}", attempt.id);
        }
    }
}

async fn pages_cover_all_rows_once_and_end_empty(opened: Opened) {
    let all = all_attempts(&opened.store).await;
    let mut seen = Vec::new();
    for page in 1..=all.len().div_ceil(7) as u32 {
        let found = opened
            .store
            .list(LogQuery {
                page,
                per_page: 7,
                descending: false,
                ..query()
            })
            .await
            .unwrap();
        assert_eq!(found.total_count, all.len() as u64);
        seen.extend(found.rows);
    }
    assert_eq!(seen, all);
    let past = opened
        .store
        .list(LogQuery {
            page: 1_000,
            ..query()
        })
        .await
        .unwrap();
    assert_eq!((past.rows.len(), past.total_count), (0, all.len() as u64));
    let after = opened
        .store
        .list(LogQuery {
            after_id: Some(all[20].id.clone()),
            ..query()
        })
        .await
        .unwrap();
    assert_eq!(after.total_count, all.len() as u64 - 21);
}

async fn order_follows_the_column_then_time(opened: Opened) {
    for order_by in [
        OrderBy::Provider,
        OrderBy::Model,
        OrderBy::ModelType,
        OrderBy::Success,
        OrderBy::Cached,
    ] {
        for descending in [false, true] {
            let page = LogQuery {
                order_by,
                descending,
                per_page: 1_000,
                ..query()
            };
            let found = opened.store.list(page).await.unwrap().rows;
            let mut expected = found.clone();
            expected.sort_by(|a, b| {
                let key = |row: &analytics::AttemptRow| match order_by {
                    OrderBy::Provider => row.provider.clone(),
                    OrderBy::Model => row.model.clone(),
                    OrderBy::ModelType => row.model_type.clone(),
                    OrderBy::Success => u8::from(row.success).to_string(),
                    _ => u8::from(row.cached).to_string(),
                };
                let by_column = if descending {
                    key(b).cmp(&key(a))
                } else {
                    key(a).cmp(&key(b))
                };
                by_column
                    .then(b.created_at_us.cmp(&a.created_at_us))
                    .then(b.id.cmp(&a.id))
            });
            assert_eq!(found, expected, "{order_by:?} descending: {descending}");
        }
    }
}

async fn found(opened: &Opened, filters: Vec<Filter>) -> Vec<String> {
    let query = LogQuery {
        filters,
        per_page: 1_000,
        descending: false,
        ..query()
    };
    let page = opened.store.list(query).await.unwrap();
    assert_eq!(page.total_count, page.rows.len() as u64);
    page.rows.into_iter().map(|row| row.id).collect()
}

fn filter(key: FilterKey, operator: Operator, values: &[&str]) -> Filter {
    Filter {
        key,
        operator,
        values: values.iter().map(ToString::to_string).collect(),
    }
}

async fn filters_agree_with_the_rows(opened: Opened) {
    use FilterKey as K;
    use Operator::{Contains, Eq, Gt, Lt, Neq};
    type Holds = fn(&analytics::AttemptRow) -> bool;
    let cases: Vec<(Filter, Holds)> = vec![
        (filter(K::Provider, Eq, &["openai"]), |row| {
            row.provider == "openai"
        }),
        (filter(K::Provider, Eq, &["openai", "anthropic"]), |row| {
            row.provider != "workers-ai"
        }),
        (filter(K::Provider, Neq, &["openai", "anthropic"]), |row| {
            row.provider == "workers-ai"
        }),
        (filter(K::Model, Contains, &["l-1", "l-2"]), |row| {
            row.model == "model-1" || row.model == "model-2"
        }),
        (filter(K::Model, Contains, &["MODEL"]), |_| false),
        (filter(K::Success, Eq, &["true"]), |row| row.success),
        (filter(K::Success, Neq, &["true"]), |row| !row.success),
        (filter(K::Cached, Eq, &["false"]), |row| !row.cached),
        (filter(K::StatusCode, Gt, &["200"]), |row| {
            row.status_code > 200
        }),
        (filter(K::TokensIn, Gt, &["50000"]), |row| {
            row.tokens_in.is_some_and(|tokens| tokens > 50_000)
        }),
        (filter(K::TokensIn, Neq, &["1"]), |row| {
            row.tokens_in.is_some_and(|tokens| tokens != 1)
        }),
        (filter(K::Tokens, Lt, &["60000"]), |row| {
            row.tokens_in.unwrap_or(0) + row.tokens_out.unwrap_or(0) < 60_000
        }),
        (filter(K::Cost, Gt, &["0.05"]), |row| {
            row.cost_pico.is_some_and(|cost| cost > 50_000_000_000)
        }),
        (filter(K::Duration, Eq, &["7", "8"]), |row| {
            matches!(row.duration_us / 1_000, 7 | 8)
        }),
        (filter(K::Duration, Gt, &["20"]), |row| {
            row.duration_us / 1_000 > 20
        }),
        (filter(K::CreatedAt, Lt, &["2026-09-21T14:13:30Z"]), |row| {
            row.created_at_us < 1_790_000_010_000_000
        }),
        (filter(K::EventId, Eq, &["event-3"]), |row| {
            row.event_id == "event-3"
        }),
        (filter(K::Authentication, Eq, &["true"]), |row| {
            row.authentication
        }),
        (filter(K::Byok, Eq, &["true"]), |row| row.byok),
        (filter(K::UserAgent, Contains, &["ünï"]), |_| true),
        (filter(K::Wholesale, Eq, &["true"]), |_| false),
        (filter(K::Wholesale, Eq, &["false"]), |_| true),
        (filter(K::DlpAction, Eq, &["FLAG"]), |_| false),
        (filter(K::Feedback, Eq, &["1"]), |_| false),
        (filter(K::Feedback, Neq, &["1"]), |_| false),
    ];
    let all = all_attempts(&opened.store).await;
    for (clause, holds) in cases {
        let expected: Vec<String> = all
            .iter()
            .filter(|row| holds(row))
            .map(|row| row.id.clone())
            .collect();
        assert_eq!(
            found(&opened, vec![clause.clone()]).await,
            expected,
            "{clause:?}"
        );
    }
    let both = vec![
        filter(K::Provider, Eq, &["openai"]),
        filter(K::Success, Eq, &["true"]),
    ];
    let expected: Vec<String> = all
        .iter()
        .filter(|row| row.provider == "openai" && row.success)
        .map(|row| row.id.clone())
        .collect();
    assert_eq!(found(&opened, both).await, expected);
    // No key makes the store stumble, whatever the value.
    for key in K::ALL {
        for value in ["1", "true", "2026-01-01T00:00:00Z"] {
            let result = opened
                .store
                .list(LogQuery {
                    filters: vec![filter(*key, Eq, &[value])],
                    ..query()
                })
                .await;
            assert!(
                matches!(result, Ok(_) | Err(Error::Query(_))),
                "{key:?} {value}: {result:?}"
            );
        }
    }
}

async fn metadata_filters_ask_for_one_entry(opened: Opened) {
    use FilterKey::{MetadataKey, MetadataValue};
    use Operator::{Contains, Eq, Neq};
    let all = all_attempts(&opened.store).await.len();
    let count = async |filters| found(&opened, filters).await.len();
    let of_seven = record(7).attempts.len();
    assert_eq!(count(vec![filter(MetadataKey, Eq, &["team"])]).await, all);
    assert_eq!(count(vec![filter(MetadataKey, Neq, &["team"])]).await, 0);
    assert_eq!(count(vec![filter(MetadataKey, Eq, &["nobody"])]).await, 0);
    assert_eq!(
        count(vec![filter(MetadataValue, Eq, &["7"])]).await,
        of_seven
    );
    assert_eq!(
        count(vec![filter(MetadataValue, Contains, &["re"])]).await,
        all
    );
    assert_eq!(
        count(vec![
            filter(MetadataKey, Eq, &["user"]),
            filter(MetadataValue, Eq, &["7"])
        ])
        .await,
        of_seven
    );
    assert_eq!(
        count(vec![
            filter(MetadataKey, Eq, &["user"]),
            filter(MetadataValue, Eq, &["red"])
        ])
        .await,
        0
    );
    assert_eq!(
        count(vec![
            filter(MetadataKey, Eq, &["beta"]),
            filter(MetadataValue, Eq, &["true"])
        ])
        .await,
        (0..RECORDS)
            .step_by(2)
            .map(|number| record(number).attempts.len())
            .sum::<usize>()
    );
}

async fn search_looks_everywhere_without_case(opened: Opened) {
    let all = all_attempts(&opened.store).await.len() as u64;
    for (text, expected) in [
        ("EVENT-7", record(7).attempts.len() as u64),
        ("Chat/Complet", all),
        ("\"TEAM\"", all),
        ("nowhere", 0),
        ("", all),
    ] {
        let page = opened
            .store
            .list(LogQuery {
                search: Some(text.into()),
                ..query()
            })
            .await
            .unwrap();
        assert_eq!(page.total_count, expected, "search `{text}`");
    }
}

async fn extents_are_those_of_the_matching_rows(opened: Opened) {
    let filters = vec![filter(FilterKey::Provider, Operator::Eq, &["anthropic"])];
    let rows: Vec<_> = all_attempts(&opened.store)
        .await
        .into_iter()
        .filter(|row| row.provider == "anthropic")
        .collect();
    let page = opened
        .store
        .list(LogQuery {
            filters,
            with_extents: true,
            ..query()
        })
        .await
        .unwrap();
    let extents = page.extents.unwrap();
    assert_eq!(page.total_count, rows.len() as u64);
    assert_eq!(
        extents.duration_us.max,
        rows.iter().map(|row| row.duration_us).max().unwrap()
    );
    assert_eq!(
        extents.tokens_in.min,
        rows.iter().filter_map(|row| row.tokens_in).min().unwrap()
    );
    assert_eq!(
        extents.cost_pico.max,
        rows.iter().filter_map(|row| row.cost_pico).max().unwrap()
    );
    let none = vec![filter(FilterKey::Provider, Operator::Eq, &["nobody"])];
    let page = opened
        .store
        .list(LogQuery {
            filters: none,
            with_extents: true,
            ..query()
        })
        .await
        .unwrap();
    assert_eq!(
        (page.total_count, page.extents),
        (0, Some(analytics::Extents::default()))
    );
}

async fn rows_not_collected_are_counted_but_not_shown(opened: Opened) {
    let before = all_attempts(&opened.store).await.len();
    let mut hidden = record(1_000);
    hidden.request.collect = false;
    opened.recorder.record(&hidden).unwrap();
    opened.settled().await;
    assert_eq!(all_attempts(&opened.store).await.len(), before);
    assert_eq!(
        opened
            .store
            .get("acct", "gw", &hidden.attempts[0].id)
            .await
            .unwrap(),
        None
    );
    let requests = opened.store.requests("acct", "gw", 1).await.unwrap();
    assert_eq!(requests, vec![hidden.request]);
}

async fn gateways_do_not_see_each_other(opened: Opened) {
    let id = record(0).attempts[0].id.clone();
    for (account, gateway) in [("acct", "other"), ("other", "gw")] {
        let page = LogQuery {
            account: account.into(),
            gateway: gateway.into(),
            ..LogQuery::default()
        };
        assert_eq!(opened.store.list(page).await.unwrap().total_count, 0);
        assert_eq!(opened.store.get(account, gateway, &id).await.unwrap(), None);
        assert_eq!(
            opened.store.body(account, gateway, &id).await.unwrap(),
            None
        );
        assert_eq!(
            opened.store.requests(account, gateway, 10).await.unwrap(),
            vec![]
        );
    }
}

async fn a_wrong_question_is_the_askers_fault(opened: Opened) {
    let wrong = LogQuery {
        filters: vec![filter(FilterKey::TokensIn, Operator::Eq, &["many"])],
        ..query()
    };
    assert!(matches!(
        opened.store.list(wrong).await,
        Err(Error::Query(_))
    ));
}

async fn hostile_text_is_only_text(opened: Opened) {
    for evil in [
        "' OR 1=1 --",
        "\\' OR 1=1 --",
        "\"; DROP TABLE attempts; --",
        "?",
        "{x:String}",
        "\u{0}",
    ] {
        let page = LogQuery {
            search: Some(evil.into()),
            ..query()
        };
        assert_eq!(
            opened.store.list(page).await.unwrap().total_count,
            0,
            "{evil}"
        );
        assert_eq!(
            opened.store.get("acct", "gw", evil).await.unwrap(),
            None,
            "{evil}"
        );
        let clause = filter(FilterKey::MetadataKey, Operator::Eq, &[evil]);
        assert_eq!(
            found(&opened, vec![clause]).await,
            Vec::<String>::new(),
            "{evil}"
        );
    }
}

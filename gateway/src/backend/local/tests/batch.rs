//! Requests that are queued and asked for later.

use std::sync::Mutex;

use super::super::batch::Batched;
use super::*;

async fn post(local: &Arc<Local>, account: &str, query: &str, body: Value) -> (u16, Value, bool) {
    let caller = Caller {
        account: account.into(),
        ..caller()
    };
    let body = Bytes::from(body.to_string());
    let call = Call {
        host: Host::Rest,
        caller: &caller,
        rest: NATIVE,
        query: Some(query),
        body: &body,
    };
    let reply = local.serve(call).await;
    let is_status_report = reply.is_status_report;
    let LocalBody::Full(body) = reply.body else {
        panic!("no stream was asked for")
    };
    let value = serde_json::from_slice(&body).expect("JSON");
    (reply.status, value, is_status_report)
}

#[tokio::test]
async fn a_batch_is_answered_when_the_engine_has_time() {
    let done: Arc<Mutex<Vec<Batched>>> = Arc::default();
    let (engine, seen) = (says("four"), Arc::clone(&done));
    let on_done = Box::new(move |batched| seen.lock().expect("no panic").push(batched));
    let local = Local::around(engine, &settings(), finetunes(), on_done);
    let requests = json!([
        { "prompt": "2+2", "external_reference": "first", "stream": true },
        { "prompt": 5 },
        { "messages": [{ "role": "user", "content": "x" }] },
    ]);
    let (status, told, is_report) = post(
        &local,
        "a",
        "queueRequest=true",
        json!({ "requests": requests }),
    )
    .await;
    assert_eq!((status, is_report), (200, true), "{told}");
    let result = &told["result"];
    assert_eq!(
        (&result["status"], &result["model"]),
        (&json!("queued"), &json!(MODEL))
    );
    let question = json!({ "request_id": result["request_id"] });
    let answers = loop {
        let (status, told, is_report) = post(&local, "a", "", question.clone()).await;
        assert_eq!((status, is_report), (200, true), "{told}");
        let result = &told["result"];
        if result.get("responses").is_some() {
            break result.clone();
        }
        assert!(result["status"] == "queued" || result["status"] == "running");
        tokio::task::yield_now().await;
    };
    let mut responses = answers["responses"].as_array().expect("a list").clone();
    responses.sort_by_key(|response| response["id"].as_u64());
    assert_eq!(responses[0]["external_reference"], "first");
    assert_eq!(responses[0]["result"]["response"], "four");
    assert_eq!(
        (&responses[1]["success"], &responses[1]["result"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(responses[1]["error"]["code"], 5006);
    assert_eq!(responses[2]["external_reference"], Value::Null);
    assert_eq!(answers["usage"]["completion_tokens"], 10);

    // Known to its own account only, by its own id only.
    for (account, question) in [("b", question.clone()), ("a", json!({ "request_id": "x" }))] {
        let (status, told, _) = post(&local, account, "", question).await;
        assert_eq!((status, &told["errors"][0]["code"]), (400, &json!(5006)));
    }
    let mut rows: Vec<(usize, u16)> = done
        .lock()
        .expect("no panic")
        .iter()
        .map(|batched| (batched.index, batched.status))
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [(0, 200), (1, 400), (2, 200)]);
}

#[tokio::test]
async fn a_batch_waits_for_a_busy_engine_and_takes_no_waiting_place() {
    let (let_go, allowed) = std::sync::mpsc::sync_channel::<()>(0);
    let config = EngineConfig {
        max_running: 1,
        max_waiting: 1,
        ..EngineConfig::default()
    };
    let script: testing::Script = Box::new(move |_| {
        let _ = allowed.recv();
        testing::END
    });
    let engine = scripted(config, script);
    let local = local(&engine, &settings());
    let held = tokio::spawn({
        let local = Arc::clone(&local);
        async move { post(&local, "a", "", json!({ "prompt": "x" })).await.0 }
    });
    while engine.stats().admitted < 1 {
        tokio::task::yield_now().await;
    }
    let rejected = engine.stats().rejected;
    let body = json!({ "prompt": "later" });
    let (_, told, _) = post(&local, "a", "queueRequest=true", body).await;
    while engine.stats().rejected == rejected {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.stats().admitted, 1, "the one that is held");
    drop(let_go);
    assert_eq!(held.await.expect("no panic"), 200);
    let question = json!({ "request_id": told["result"]["request_id"] });
    loop {
        let (_, told, _) = post(&local, "a", "", question.clone()).await;
        if told["result"].get("responses").is_some() {
            assert_eq!(told["result"]["responses"][0]["success"], true);
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_need_the_query_and_a_batch_needs_requests() {
    let local = local(&says("x"), &settings());
    for (query, body, expected) in [
        (
            "",
            json!({ "requests": [{ "prompt": "x" }] }),
            "with the query `queueRequest=true`",
        ),
        (
            "queueRequest=true",
            json!({ "requests": [] }),
            "Length of '/requests' must be >= 1",
        ),
        (
            "queueRequest=true",
            json!({ "requests": [1] }),
            "'number' not in 'object'",
        ),
    ] {
        let (status, told, _) = post(&local, "a", query, body).await;
        let message = told["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(expected), "{message}");
    }
}

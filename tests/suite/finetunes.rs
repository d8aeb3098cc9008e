//! Callers' own adapters: the calls that the original's SDKs, command line and documents make.

use serde_json::{Value, json};
use tests::adapter::{
    AI, CONFIG, ENCODER, MODEL, WEIGHTS, WIDTH, adapter_config, adapter_weights, assert_refused,
    complete, config, create, get, good_weights, names, new, upload, upload_to,
};
use tests::gateway::run;
use tests::{Request, TestGateway, eventually};

#[tokio::test]
async fn the_original_s_clients_make_list_and_fill_fine_tunes() {
    let gateway = TestGateway::start(config("")).await;
    let list = format!("{AI}/finetunes");
    assert_eq!(get(&gateway, &list).await, json!([]));
    // The command line: JSON, then one call a file, in the order of the directory.
    let made = create(&gateway, &new("by-command-line")).await;
    assert_eq!(
        (&made["model"], &made["public"]),
        (&json!(MODEL), &json!(false))
    );
    assert!(
        made["created_at"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    let id = made["id"].as_str().expect("an id");
    assert_eq!(id.len(), 36);
    let answer = gateway.send(&upload(id, CONFIG, &adapter_config(4))).await;
    assert_eq!(
        answer.expect_status(200).json()["result"]["rank"],
        Value::Null
    );
    let answer = gateway.send(&upload(id, WEIGHTS, &good_weights())).await;
    let body = answer.expect_status(200).json();
    assert_eq!(
        (&body["success"], &body["result"]["rank"]),
        (&json!(true), &json!(4))
    );

    // The documents' curl: a slash at the end, by name, the weights first, names before bytes.
    create(
        &gateway,
        &json!({"model": MODEL, "name": "by curl", "public": null}),
    )
    .await;
    let assets = format!("{AI}/finetunes/by%20curl/finetune-assets/");
    for (file_name, bytes) in [(WEIGHTS, good_weights()), (CONFIG, adapter_config(4))] {
        let request = upload_to(
            &assets,
            &[
                ("file_name", None, file_name.as_bytes()),
                ("file", Some(file_name), &bytes),
            ],
        );
        let request = request.header("expect", "100-continue");
        assert_eq!(
            gateway.send(&request).await.expect_status(200).json()["success"],
            true
        );
    }

    // An SDK: both files at once, in two calls that do not wait for each other, one of them in chunks.
    let made = create(
        &gateway,
        &json!({"model": MODEL.to_uppercase(), "name": "by-sdk"}),
    )
    .await;
    assert_eq!(made["model"], MODEL);
    let id = made["id"].as_str().expect("an id");
    let (config, weights) = (adapter_config(4), good_weights());
    let one = upload(id, CONFIG, &config);
    let mut other = upload(id, WEIGHTS, &weights);
    other.body = other
        .body
        .chunks(50_000)
        .flat_map(tests::http::as_chunk)
        .collect();
    other.body.extend_from_slice(b"0\r\n\r\n");
    let other = other.header("transfer-encoding", "chunked");
    let (one, other) = tokio::join!(gateway.send(&one), gateway.send(&other));
    let ranks =
        [one, other].map(|answer| answer.expect_status(200).json()["result"]["rank"].clone());
    assert!(
        ranks.contains(&json!(4)),
        "whoever came last saw both: {ranks:?}"
    );

    let all = get(&gateway, &list).await;
    assert_eq!(names(&all), ["by-command-line", "by curl", "by-sdk"]);
    for row in all.as_array().expect("a list") {
        assert_eq!(
            (&row["rank"], row["files"].as_array().map(Vec::len)),
            (&json!(4), Some(2))
        );
    }
    assert_eq!(
        get(&gateway, &format!("{list}/")).await,
        all,
        "a slash at the end"
    );
    assert_eq!(get(&gateway, &format!("{list}/by%20curl")).await, all[1]);

    let gateway = gateway.terminate_and_restart().await;
    assert_eq!(get(&gateway, &list).await, all, "after a restart");
    let answer = gateway
        .send(&Request::new("DELETE", &format!("{list}/by-sdk")))
        .await;
    assert_eq!(answer.expect_status(200).json()["result"]["id"], id);
    let answer = gateway.send(&Request::get(&format!("{list}/{id}"))).await;
    assert_refused(&answer, 404, 3037, &format!("Finetune {id} not found"));
    assert_eq!(names(&get(&gateway, &list).await).len(), 2);
}

#[tokio::test]
async fn both_files_may_come_in_one_call_and_later_ones_in_their_place() {
    let gateway = TestGateway::start(config("")).await;
    let made = create(&gateway, &new("tune")).await;
    let id = made["id"].as_str().expect("an id");
    let assets = format!("{AI}/finetunes/{id}/finetune-assets");
    let (config, weights) = (adapter_config(4), good_weights());
    let pair: &[(&str, Option<&str>, &[u8])] = &[
        ("file_name", None, WEIGHTS.as_bytes()),
        ("file", Some("blob"), &weights),
        ("file_name", None, CONFIG.as_bytes()),
        ("file", Some("blob"), &config),
    ];
    let first = gateway.send(&upload_to(&assets, pair)).await;
    let first = first.expect_status(200).json()["result"].clone();
    assert_eq!(first["rank"], 4);
    let hash = |tune: &Value, index: usize| tune["files"][index]["sha256"].clone();

    let other = adapter_weights(4, WIDTH, 2, 1.0);
    let second = gateway.send(&upload(id, WEIGHTS, &other)).await;
    let second = second.expect_status(200).json()["result"].clone();
    assert_eq!(hash(&second, 0), hash(&first, 0));
    assert_ne!(hash(&second, 1), hash(&first, 1));
    assert!(second["modified_at"].as_str() > first["modified_at"].as_str());

    // Rank 8 with the configuration of rank 4: refused, and nothing changed.
    let wide = adapter_weights(8, WIDTH, 3, 1.0);
    let answer = gateway.send(&upload(id, WEIGHTS, &wide)).await;
    assert_refused(
        &answer,
        400,
        5006,
        "to replace both files send them in one call",
    );
    assert_eq!(get(&gateway, &format!("{AI}/finetunes/tune")).await, second);
    let config = adapter_config(8);
    let named: &[(&str, Option<&str>, &[u8])] = &[
        ("file", Some(WEIGHTS), &wide),
        (CONFIG, Some("blob"), &config),
    ];
    let third = gateway
        .send(&Request {
            method: "PUT".into(),
            ..upload_to(&assets, named)
        })
        .await;
    assert_eq!(third.expect_status(200).json()["result"]["rank"], 8);
    let folder = gateway.folder().join("data/finetunes");
    let kept = std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!(
        kept, 5,
        "the old ones stay for requests that wait; the refused one does not"
    );
}

#[tokio::test]
async fn public_ones_are_everybodys_and_the_others_are_not() {
    let gateway = TestGateway::start(config("")).await;
    complete(&gateway, "mine", &good_weights()).await;
    create(
        &gateway,
        &json!({"model": MODEL, "name": "cf-public-b", "public": true}),
    )
    .await;
    create(
        &gateway,
        &json!({"model": MODEL, "name": "a", "public": true}),
    )
    .await;
    let other = AI.replace("default", "other");
    let public = format!("{other}/finetunes/public");
    assert_eq!(
        get(&gateway, &format!("{other}/finetunes")).await,
        json!([])
    );
    assert_eq!(names(&get(&gateway, &public).await), ["cf-public-b", "a"]);
    assert_eq!(
        names(&get(&gateway, &format!("{public}/?limit=1&offset=1")).await),
        ["a"]
    );
    assert_eq!(
        names(&get(&gateway, &format!("{public}?orderBy=name")).await),
        ["a", "cf-public-b"]
    );
    let answer = gateway
        .send(&Request::get(&format!("{public}?orderBy=size")))
        .await;
    assert_refused(&answer, 400, 7001, "`orderBy` is one of created_at");
    for name in ["mine", "cf-public-b"] {
        let answer = gateway
            .send(&Request::new(
                "DELETE",
                &format!("{other}/finetunes/{name}"),
            ))
            .await;
        assert_refused(&answer, 404, 3037, &format!("Finetune {name} not found"));
    }
    let body = json!({"prompt": "x", "lora": "mine"});
    let answer = gateway
        .send(&Request::post(&format!("{other}/run/{MODEL}"), &body))
        .await;
    assert_refused(&answer, 404, 3037, "Finetune mine not found");
    let body = json!({"prompt": "x", "lora": "cf-public-b"});
    let answer = gateway
        .send(&Request::post(&format!("{other}/run/{MODEL}"), &body))
        .await;
    assert_refused(&answer, 400, 3039, "Finetune is missing required files");
    for (path, body) in [
        (
            format!("{AI}/run/{ENCODER}"),
            json!({"text": ["x"], "lora": "mine"}),
        ),
        (
            format!("{AI}/v1/embeddings"),
            json!({"model": ENCODER, "input": "x", "lora": "mine"}),
        ),
    ] {
        let answer = gateway.send(&Request::post(&path, &body)).await;
        assert_refused(&answer, 405, 5005, "does not support LoRa inference");
    }
}

#[tokio::test]
async fn a_token_that_may_only_ask_changes_nothing() {
    let gateway = TestGateway::start(config("")).await;
    let token = async |permissions: &str| {
        let line = [
            "token",
            "create",
            "--config",
            "config.toml",
            "--label",
            "x",
            "--permissions",
            permissions,
        ];
        let (status, stdout, stderr) = run(&line, gateway.folder()).await;
        assert!(status.success(), "{stderr}");
        format!("Bearer {}", stdout.trim())
    };
    let (reader, editor) = (
        token("workers_ai_read").await,
        token("workers_ai_edit").await,
    );
    let path = format!("{AI}/finetunes");
    let list = |token: &str| Request::get(&path).header("authorization", token);
    let make = |token: &str| Request::post(&path, &new("x")).header("authorization", token);
    for token in [&reader, &editor] {
        eventually("the token to be known", async || {
            (gateway.send(&list(token)).await.status == 200).then_some(())
        })
        .await;
    }
    eventually("tokens to be asked for", async || {
        (gateway.send(&Request::get(&path)).await.status == 401).then_some(())
    })
    .await;
    assert_refused(
        &gateway.send(&make(&reader)).await,
        403,
        10000,
        "workers_ai_edit",
    );
    gateway.send(&make(&editor)).await.expect_status(200);
    let remove = Request::new("DELETE", &format!("{path}/x")).header("authorization", &reader);
    assert_refused(&gateway.send(&remove).await, 403, 10000, "workers_ai_edit");
}

#[tokio::test]
async fn the_command_line_makes_lists_and_deletes_them() {
    let config = config("max_bytes = 2000000");
    let gateway = TestGateway::start(config.clone()).await;
    // The command finds the gateway by the file's address.
    gateway.write_config(&config.set("server", &format!("listen = \"{}\"", gateway.server)));
    let folder = gateway.folder().join("adapter");
    std::fs::create_dir(&folder).expect("a folder");
    let command = async |arguments: &[&str]| {
        let line = [&["finetune"], arguments, &["--config", "config.toml"]].concat();
        run(&line, gateway.folder()).await
    };
    let make = [
        "create",
        MODEL,
        "pirate",
        "adapter",
        "--description",
        "speaks so",
    ];
    let (status, _, stderr) = command(&make).await;
    assert!(
        !status.success() && stderr.contains("there is no `adapter/adapter_config.json`"),
        "{stderr}"
    );
    std::fs::write(folder.join(CONFIG), adapter_config(4)).expect("a writable folder");
    std::fs::write(folder.join(WEIGHTS), adapter_weights(8, WIDTH, 3, 1.0))
        .expect("a writable folder");
    let (status, _, stderr) = command(&make).await;
    assert!(
        !status.success() && stderr.contains("the upload was not kept"),
        "{stderr}"
    );
    let (_, stdout, _) = command(&["list"]).await;
    assert!(stdout.contains("no fine-tunes"), "removed again: {stdout}");

    std::fs::write(folder.join(WEIGHTS), good_weights()).expect("a writable folder");
    let (status, stdout, stderr) = command(&make).await;
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("\"lora\": \"pirate\""), "{stderr}");
    let id = stdout.trim().to_owned();
    let (_, stdout, _) = command(&["list"]).await;
    assert_eq!(
        stdout,
        format!("{id}  pirate  {MODEL}  rank 4  speaks so\n")
    );
    let (status, stdout, _) = command(&["delete", "pirate"]).await;
    assert!(
        status.success() && stdout.contains("pirate is deleted"),
        "{stdout}"
    );
    let (status, _, stderr) = command(&["delete", "pirate"]).await;
    assert!(
        !status.success() && stderr.contains("Finetune pirate not found"),
        "{stderr}"
    );
}

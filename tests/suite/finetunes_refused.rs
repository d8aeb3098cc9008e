//! Fine-tunes and files that are refused, each with what to change.

use serde_json::{Value, json};
use tests::adapter::{
    AI, BOUNDARY, CONFIG, ENCODER, MODEL, WEIGHTS, WIDTH, adapter_config, adapter_weights,
    assert_refused, config, create, get, good_weights, new, upload, upload_to,
};
use tests::{Connection, Request, TestGateway, eventually};

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_what_to_change() {
    let gateway = TestGateway::start(config("max_per_account = 2")).await;
    let path = format!("{AI}/finetunes");
    let send = async |body: Value| gateway.send(&Request::post(&path, &body)).await;
    for (body, status, code, words) in [
        (json!({"name": "x"}), 400, 7001, "`model` is missing"),
        (json!({"model": MODEL}), 400, 7001, "`name` is missing"),
        (
            json!({"model": MODEL, "name": 5}),
            400,
            7001,
            "`name` is a text, got 5",
        ),
        (
            json!({"model": MODEL, "name": ""}),
            400,
            7001,
            "1 to 100 are possible",
        ),
        (
            json!({"model": MODEL, "name": "a/b"}),
            400,
            7001,
            "may hold no `/`",
        ),
        (
            json!({"model": MODEL, "name": "public"}),
            400,
            7001,
            "neither `public` nor",
        ),
        (
            json!({"model": MODEL, "name": "cf-public-x"}),
            400,
            7001,
            "set `public`",
        ),
        (
            json!({"model": MODEL, "name": "x", "public": "yes"}),
            400,
            7001,
            "`public` is true or false",
        ),
        (
            json!({"model": "@cf/no/such", "name": "x"}),
            400,
            5007,
            MODEL,
        ),
        (
            json!({"model": "@cf/meta/llama-3-8b-instruct", "name": "x"}),
            400,
            5007,
            "this gateway's engine offers",
        ),
        (
            json!({"model": ENCODER, "name": "x"}),
            405,
            5005,
            "does not support LoRa inference",
        ),
    ] {
        assert_refused(&send(body).await, status, code, words);
    }
    let answer = gateway
        .send(&Request::post_bytes(&path, "application/json", "{"))
        .await;
    assert_refused(&answer, 400, 7001, "send a JSON object");
    create(&gateway, &new("one")).await;
    assert_refused(&send(new("one")).await, 400, 7001, "`one` exists already");
    create(&gateway, &new("two")).await;
    assert_refused(
        &send(new("three")).await,
        400,
        7001,
        "has 2 fine-tunes and may have 2",
    );
    for (method, path) in [
        ("PUT", path.clone()),
        ("POST", format!("{path}/one")),
        ("GET", format!("{path}/one/finetune-assets")),
    ] {
        let answer = gateway.send(&Request::new(method, &path)).await;
        assert_refused(&answer, 405, 7001, "not supported");
    }
    let answer = gateway
        .send(&Request::get(&format!("{path}/one/files")))
        .await;
    assert_refused(&answer, 404, 7000, "No route");
}

#[tokio::test]
async fn files_that_are_no_adapter_are_refused_and_not_kept() {
    let gateway = TestGateway::start(config("max_rank = 8\nmax_bytes = 2000000")).await;
    let made = create(&gateway, &new("tune")).await;
    let id = made["id"].as_str().expect("an id");
    let assets = format!("{AI}/finetunes/tune/finetune-assets");
    let (config, weights) = (adapter_config(4), good_weights());
    type Parts<'p> = &'p [(&'p str, Option<&'p str>, &'p [u8])];
    let cases: [(Parts<'_>, &str); 6] = [
        (
            &[("file_name", None, b"adapter.bin"), ("file", None, b"x")],
            "`file_name` is `adapter.bin`, it is `adapter_config.json` or",
        ),
        (&[("file", Some("blob"), &config)], "no part `file_name`"),
        (&[("file_name", None, CONFIG.as_bytes())], "no part `file`"),
        (&[("data", None, b"x")], "a part `data`"),
        (&[], "no part `file`"),
        (
            &[
                ("file_name", None, CONFIG.as_bytes()),
                ("file", None, &config),
                ("file_name", None, CONFIG.as_bytes()),
                ("file", None, &config),
            ],
            "comes twice",
        ),
    ];
    for (parts, words) in cases {
        let answer = gateway.send(&upload_to(&assets, parts)).await;
        assert_refused(&answer, 400, 7001, words);
    }
    let answer = gateway
        .send(&Request::post_bytes(&assets, "application/json", "{}"))
        .await;
    assert_refused(&answer, 400, 7001, "send multipart/form-data");
    let mut cut = upload(id, CONFIG, &config);
    cut.body.truncate(cut.body.len() - 20);
    assert_refused(
        &gateway.send(&cut).await,
        400,
        7001,
        "no multipart/form-data",
    );
    let junk = Request::post_bytes(
        &assets,
        &format!("multipart/form-data; boundary={BOUNDARY}"),
        vec![b'x'; 600_000],
    );
    assert_refused(&gateway.send(&junk).await, 400, 7001, "hold no part");

    let large = vec![0; 4_000_000];
    let answer = gateway.send(&upload(id, WEIGHTS, &large)).await;
    assert_refused(
        &answer,
        413,
        7001,
        "larger than 2000000 bytes (`finetunes.max_bytes`)",
    );
    let answer = gateway
        .send(&upload(id, WEIGHTS, &large[..2_000_001]))
        .await;
    assert_refused(
        &answer,
        413,
        7001,
        "larger than 2000000 bytes (`finetunes.max_bytes`)",
    );
    let answer = gateway.send(&upload(id, CONFIG, &large[..1_100_000])).await;
    assert_refused(
        &answer,
        413,
        7001,
        "adapter_config.json is larger than 1048576 bytes",
    );
    let answer = gateway.send(&upload(id, CONFIG, b"{")).await;
    assert_refused(&answer, 400, 5006, "adapter_config.json: not JSON");
    let answer = gateway.send(&upload(id, CONFIG, &adapter_config(16))).await;
    assert_refused(
        &answer,
        400,
        5006,
        "`r` is 16, at most 8 is taken (`finetunes.max_rank`)",
    );
    let answer = gateway.send(&upload("nobody", CONFIG, &config)).await;
    assert_refused(&answer, 404, 3037, "Finetune nobody not found");

    // One of them alone is taken on; what does not fit it is not.
    gateway
        .send(&upload(id, CONFIG, &config))
        .await
        .expect_status(200);
    let narrow = adapter_weights(4, 64, 1, 1.0);
    let infinite = adapter_weights(4, WIDTH, 1, f32::INFINITY);
    let wide = adapter_weights(8, WIDTH, 3, 1.0);
    for (bytes, words) in [
        (&b"not safetensors at all"[..], "adapter_model.safetensors"),
        (&narrow, "of another base or rank"),
        (&wide, "of another base or rank"),
        (&infinite, "finite"),
    ] {
        let answer = gateway.send(&upload(id, WEIGHTS, bytes)).await;
        assert_refused(&answer, 400, 5006, words);
        let body = answer.text();
        assert!(body.contains("the upload was not kept"), "{body}");
    }
    let tune = get(&gateway, &format!("{AI}/finetunes/{id}")).await;
    assert_eq!(tune["files"].as_array().map(Vec::len), Some(1));
    let kept = std::fs::read_dir(gateway.folder().join("data/finetunes")).expect("a folder");
    assert_eq!(kept.count(), 1, "halves and refused files are gone");
    let answer = gateway.send(&upload(id, WEIGHTS, &weights)).await;
    assert_eq!(answer.expect_status(200).json()["result"]["rank"], 4);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let gateway = TestGateway::start(config("")).await;
    create(&gateway, &new("tune")).await;
    let request = upload("tune", WEIGHTS, &vec![7; 3_000_000]);
    let folder = gateway.folder().join("data/finetunes");
    let count = || std::fs::read_dir(&folder).expect("a folder").count();
    let mut connection = Connection::open(gateway.server).await;
    let mut bytes = request.head_bytes(gateway.server);
    bytes.extend_from_slice(&request.body[..2_000_000]);
    connection.write(&bytes).await.expect("it is read");
    eventually("half a file", async || (count() == 1).then_some(())).await;
    connection.leave();
    eventually("an empty folder", async || (count() == 0).then_some(())).await;
}

#[tokio::test]
async fn an_upload_goes_to_disk_and_not_into_memory() {
    let gateway = TestGateway::start(config("")).await;
    create(&gateway, &new("tune")).await;
    let before = gateway.memory_bytes();
    let file = vec![7; 100_000_000];
    gateway
        .send(&upload("tune", WEIGHTS, &file))
        .await
        .expect_status(200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process_id()))
        .expect("a running process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let grown = (peak.expect("a peak") * 1024).saturating_sub(before);
    assert!(
        grown < 50_000_000,
        "{grown} bytes more for {} uploaded",
        file.len()
    );
}

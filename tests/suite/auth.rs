//! Who may call: gateway tokens, where SDKs put them, and what a browser may not do.

use serde_json::json;
use tests::gateway::run;
use tests::logs::logs_path;
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, step};
use tests::{Config, Reply, Request, ScriptedUpstream, TestGateway, client, eventually};

struct Place {
    gateway: TestGateway,
    upstream: ScriptedUpstream,
}

async fn place() -> Place {
    let upstream = ScriptedUpstream::replying(Reply::json(
        200,
        &chat_answer("gpt-4o-mini", "hello", 11, 3),
    ))
    .await;
    let config = Config::new()
        .provider("openai", &upstream.url("/v1"))
        .provider("anthropic", &upstream.url(""))
        .provider("google-ai-studio", &upstream.url(""))
        .gateway("default", "closed", "authentication = true")
        .gateway("default", "open", "authentication = false")
        .gateway("acct", "closed", "authentication = true");
    Place {
        gateway: TestGateway::start(config).await,
        upstream,
    }
}

impl Place {
    /// Makes a token as an operator does, and waits until the running gateway knows it.
    async fn token(&self, arguments: &[&str]) -> String {
        let mut line = vec!["token", "create", "--config", "config.toml"];
        if !arguments.contains(&"--label") {
            line.extend_from_slice(&["--label", "test"]);
        }
        line.extend_from_slice(arguments);
        let (status, stdout, stderr) = run(&line, self.gateway.folder()).await;
        assert!(status.success(), "{stderr}");
        let token = stdout.trim().to_owned();
        assert!(
            token.len() >= 32 && !token.contains(char::is_whitespace),
            "{token:?}"
        );
        eventually("the gateway to ask for tokens", async || {
            let answer = self
                .gateway
                .send(&Request::get(&logs_path("default", "default")))
                .await;
            (answer.status == 401).then_some(())
        })
        .await;
        token
    }

    /// Waits until `request` is let in: a further token is known within a second.
    async fn let_in(&self, request: &Request) {
        eventually("the token to be known", async || {
            (self.status(request).await == 200).then_some(())
        })
        .await;
    }

    async fn status(&self, request: &Request) -> u16 {
        self.gateway.send(request).await.status
    }
}

fn to(gateway: &str) -> Request {
    Request::post(
        &CHAT.replace("default/default", gateway),
        &chat("gpt-4o-mini", false),
    )
}

#[tokio::test]
async fn without_any_token_every_credential_is_taken() {
    let place = place().await;
    for credential in [
        "Bearer undefined",
        "Bearer sk-anything",
        "Bearer ",
        "nonsense",
    ] {
        let request = to("default/open").header("cf-aig-authorization", credential);
        assert_eq!(place.status(&request).await, 200, "{credential}");
    }
    assert_eq!(place.status(&to("default/default")).await, 200);
}

#[tokio::test]
async fn a_closed_gateway_takes_its_token_and_nothing_else() {
    let place = place().await;
    let token = place.token(&[]).await;
    let good = format!("Bearer {token}");
    for (gateway, credential, wanted) in [
        ("default/closed", Some(good.as_str()), 200),
        ("default/closed", None, 401),
        ("default/closed", Some("Bearer wrong"), 401),
        ("default/closed", Some("Bearer undefined"), 401),
        ("default/closed", Some("Bearer "), 401),
        ("default/open", None, 200),
        ("default/open", Some("Bearer wrong"), 200),
        // `default` is closed as soon as a token exists.
        ("default/default", None, 401),
        ("default/default", Some(good.as_str()), 200),
    ] {
        let mut request = to(gateway);
        if let Some(credential) = credential {
            request = request.header("cf-aig-authorization", credential);
        }
        let answer = place.gateway.send(&request).await;
        assert_eq!(answer.status, wanted, "{gateway} {}", credential.is_some());
        if wanted == 401 {
            assert_eq!(answer.error_code(), Some(2009));
        }
    }
}

#[tokio::test]
async fn missing_and_wrong_tokens_read_the_same() {
    let place = place().await;
    place.token(&[]).await;
    let missing = place.gateway.send(&to("default/closed")).await;
    let wrong = place
        .gateway
        .send(&to("default/closed").header("cf-aig-authorization", "Bearer wrong"))
        .await;
    assert_eq!(
        (missing.status, missing.json()),
        (wrong.status, wrong.json())
    );
}

#[tokio::test]
async fn a_token_in_the_place_of_the_providers_key_is_taken_and_never_forwarded() {
    let place = place().await;
    let token = place.token(&[]).await;
    let anthropic = "/v1/default/closed/anthropic/v1/messages";
    let google =
        "/v1/default/closed/google-ai-studio/v1beta/models/gemini-2.0-flash:generateContent";
    let body = tests::shapes::message(false);
    for request in [
        to("default/closed").header("cf-aig-authorization", &format!("Bearer {token}")),
        to("default/closed").header("authorization", &format!("Bearer {token}")),
        Request::post(anthropic, &body).header("x-api-key", &token),
        Request::post(google, &json!({"contents": []})).header("x-goog-api-key", &token),
        Request::post(&format!("{google}?key={token}"), &json!({"contents": []})),
    ] {
        place.upstream.forget_calls();
        place.gateway.send(&request).await.expect_status(200);
        let call = format!("{:?}", place.upstream.only_call());
        assert!(!call.contains(&token), "the token went upstream: {call}");
    }
    assert!(!place.gateway.stderr().contains(&token));
}

#[tokio::test]
async fn a_token_in_a_universal_request_is_not_forwarded_either() {
    let place = place().await;
    let token = place.token(&[]).await;
    let mut entry = step("openai", "chat/completions", chat("gpt-4o-mini", false), 1);
    entry["headers"] = json!({"authorization": format!("Bearer {token}")});
    let path = UNIVERSAL.replace("default/default", "default/closed");
    let request = Request::post(&path, &json!([entry]))
        .header("cf-aig-authorization", &format!("Bearer {token}"));
    place.gateway.send(&request).await.expect_status(200);
    assert!(!format!("{:?}", place.upstream.only_call()).contains(&token));
}

#[tokio::test]
async fn a_token_holds_for_its_account_gateway_and_permissions() {
    let place = place().await;
    let all = place.token(&[]).await;
    let account = place.token(&["--account", "acct"]).await;
    let one_gateway = place
        .token(&["--account", "default", "--gateway", "open"])
        .await;
    let reader = place.token(&["--permissions", "gateway_read"]).await;
    let runner = place.token(&["--permissions", "gateway_run"]).await;
    let metadata = place.token(&["--permissions", "logs_metadata"]).await;
    let logs = |account: &str| Request::get(&logs_path(account, "closed"));
    // Tokens are read as a set, so the last one's coming is all the others'.
    place
        .let_in(&logs("default").header("authorization", &format!("Bearer {metadata}")))
        .await;
    for (request, token, allowed) in [
        (to("acct/closed"), &all, true),
        (to("acct/closed"), &account, true),
        (to("default/closed"), &account, false),
        (to("default/closed"), &one_gateway, false),
        (to("default/closed"), &reader, false),
        (to("default/closed"), &runner, true),
        (logs("default"), &all, true),
        (logs("default"), &reader, true),
        (logs("default"), &metadata, true),
        (logs("default"), &runner, false),
        (logs("default"), &account, false),
        (logs("acct"), &account, true),
    ] {
        let credential = format!("Bearer {token}");
        let name = if request.method == "GET" {
            "authorization"
        } else {
            "cf-aig-authorization"
        };
        let status = place
            .status(&request.clone().header(name, &credential))
            .await;
        let is_allowed = status == 200;
        assert!(
            is_allowed || matches!(status, 401 | 403),
            "{} {status}",
            request.target
        );
        assert_eq!(is_allowed, allowed, "{} {status}", request.target);
    }
}

#[tokio::test]
async fn one_who_reads_metadata_cannot_read_bodies() {
    let place = place().await;
    let all = place.token(&[]).await;
    let metadata = place.token(&["--permissions", "logs_metadata"]).await;
    let answer = place
        .gateway
        .send(&to("default/closed").header("cf-aig-authorization", &format!("Bearer {all}")))
        .await;
    let id = answer.header("cf-aig-log-id").expect("a log id");
    let path = format!("{}/{id}", logs_path("default", "closed"));
    let as_bearer = |path: &str, token: &str| {
        Request::get(path).header("authorization", &format!("Bearer {token}"))
    };
    eventually("the row", async || {
        (place.status(&as_bearer(&path, &all)).await == 200).then_some(())
    })
    .await;
    place.let_in(&as_bearer(&path, &metadata)).await;
    assert_eq!(
        place
            .status(&as_bearer(&format!("{path}/request"), &all))
            .await,
        200
    );
    assert_eq!(
        place
            .status(&as_bearer(&format!("{path}/request"), &metadata))
            .await,
        403
    );
    let shown = place
        .gateway
        .send(&as_bearer(&path, &metadata))
        .await
        .text();
    assert!(!shown.contains("say three words"), "{shown}");
}

#[tokio::test]
async fn a_revoked_token_ends_at_once() {
    let place = place().await;
    let _keeper = place.token(&[]).await;
    let token = place.token(&["--label", "second"]).await;
    let request = to("default/closed").header("cf-aig-authorization", &format!("Bearer {token}"));
    place.let_in(&request).await;
    let (_, listed, _) = run(
        &["token", "list", "--config", "config.toml"],
        place.gateway.folder(),
    )
    .await;
    assert!(!listed.contains(&token), "a list shows no token: {listed}");
    let id = listed
        .lines()
        .find(|line| line.contains("second"))
        .and_then(|line| line.split_whitespace().next());
    let revoke = [
        "token",
        "revoke",
        "--config",
        "config.toml",
        id.expect("the token is listed"),
    ];
    let (status, _, stderr) = run(&revoke, place.gateway.folder()).await;
    assert!(status.success(), "{stderr}");
    eventually("the token to end", async || {
        (place.status(&request).await == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_nowhere_on_disk_in_clear() {
    let place = place().await;
    let token = place.token(&[]).await;
    place
        .status(&to("default/closed").header("cf-aig-authorization", &format!("Bearer {token}")))
        .await;
    let mut folders = vec![place.gateway.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)
            .expect("a readable folder")
            .flatten()
        {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                let found = tests::http::find(&bytes, token.as_bytes());
                assert!(
                    found.is_none(),
                    "the token stands in {}",
                    entry.path().display()
                );
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_host_or_origin_is_refused_while_no_token_exists() {
    let place = place().await;
    let foreign = [
        ("host", "evil.example"),
        ("host", "evil.example:8787"),
        ("origin", "https://evil.example"),
    ];
    for (name, value) in foreign {
        let answer = place
            .gateway
            .send(&to("default/open").header(name, value))
            .await;
        assert!(
            matches!(answer.status, 401 | 403),
            "{name} {value}: {}",
            answer.status
        );
        let answer = client::send(
            place.gateway.admin,
            &Request::get("/metrics").header(name, value),
        )
        .await;
        assert!(
            matches!(answer.status, 401 | 403),
            "admin, {name} {value}: {}",
            answer.status
        );
    }
    assert_eq!(place.upstream.call_count(), 0);
    for (name, value) in [
        ("host", "localhost:8787"),
        ("host", "127.0.0.1"),
        ("origin", "http://localhost:3000"),
    ] {
        assert_eq!(
            place.status(&to("default/open").header(name, value)).await,
            200,
            "{name} {value}"
        );
    }
}

#[tokio::test]
async fn a_public_address_without_a_token_is_refused_at_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::new().set("server", "listen = \"0.0.0.0:0\"");
    std::fs::write(
        folder.path().join("config.toml"),
        config.render(folder.path()),
    )
    .expect("a writable folder");
    let (status, _, stderr) = run(&["serve", "--config", "config.toml"], folder.path()).await;
    assert!(!status.success());
    assert!(stderr.contains("ai-gateway token create"), "{stderr}");
}

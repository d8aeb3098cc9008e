//! The command line besides `serve`: what each command prints, refuses and proposes.

use std::path::Path;
use tempfile::TempDir;
use tests::gateway::run;
use tests::shapes::{CHAT, chat, chat_answer};
use tests::tls::TestCertificate;
use tests::{Config, Reply, Request, ScriptedUpstream, TestGateway, eventually};

fn folder(config: &Config) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "config.toml", config);
    folder
}

fn write(folder: &Path, name: &str, config: &Config) {
    std::fs::write(folder.join(name), config.render(folder)).expect("a writable folder");
}

/// What a command that must succeed prints.
async fn printed(arguments: &[&str], folder: &Path) -> String {
    let (status, stdout, stderr) = run(arguments, folder).await;
    assert!(status.success(), "{arguments:?}: {stderr}");
    stdout
}

/// What a command that must fail says.
async fn refused(arguments: &[&str], folder: &Path) -> String {
    let (status, stdout, stderr) = run(arguments, folder).await;
    assert!(!status.success(), "{arguments:?} succeeded: {stdout}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

#[tokio::test]
async fn help_lists_every_command_and_shows_examples() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let help = printed(&["--help"], folder.path()).await;
    for command in [
        "serve",
        "check-config",
        "print-config",
        "token",
        "model",
        "finetune",
        "logs",
    ] {
        let is_listed = help
            .lines()
            .any(|line| line.split_whitespace().next() == Some(command));
        assert!(is_listed, "{command} is not listed: {help}");
    }
    assert!(help.contains("Examples:"), "{help}");
    for command in [
        &["serve"][..],
        &["check-config"],
        &["print-config"],
        &["token", "create"],
        &["token", "list"],
        &["token", "revoke"],
        &["finetune", "merge"],
        &["model", "pull"],
        &["model", "list"],
        &["finetune", "create"],
        &["finetune", "list"],
        &["finetune", "delete"],
        &["logs", "tail"],
    ] {
        let help = printed(&[command, &["--help"]].concat(), folder.path()).await;
        let example = format!("  ai-gateway {}", command.join(" "));
        assert!(help.contains(&example), "no example of {command:?}: {help}");
    }
    let stderr = refused(&["sevre"], folder.path()).await;
    assert!(
        stderr.contains("serve"),
        "no guess at what was meant: {stderr}"
    );
    printed(&["--version"], folder.path()).await;
}

#[tokio::test]
async fn a_good_file_is_called_good_and_printed_with_its_sources() {
    let config = Config::new()
        .set("server", "threads = 3")
        .set("providers.openai", "api_key = { env = \"KEY_OF_NOBODY\" }")
        .gateway("acct", "gw", "cache_ttl = 300");
    let folder = folder(&config);
    let place = ["--config", "config.toml"];
    // A secret whose place is empty is found before a request needs it.
    let stderr = refused(&[&["check-config"][..], &place].concat(), folder.path()).await;
    assert!(stderr.contains("KEY_OF_NOBODY"), "{stderr}");
    write(
        folder.path(),
        "config.toml",
        &Config::new()
            .set("server", "threads = 3")
            .gateway("acct", "gw", "cache_ttl = 300"),
    );
    let good = printed(&[&["check-config"][..], &place].concat(), folder.path()).await;
    assert!(good.contains("good"), "{good}");
    let shown = printed(&[&["print-config"][..], &place].concat(), folder.path()).await;
    let source = |key: &str| {
        let line = shown.lines().find(|line| line.contains(key));
        line.unwrap_or_else(|| panic!("no {key} in {shown}"))
    };
    assert!(source("threads").contains("file"), "{shown}");
    assert!(source("cache_ttl").contains("300"), "{shown}");
    assert!(source("max_body_bytes").contains("default"), "{shown}");
    // No file at all is as good.
    printed(&["check-config"], folder.path()).await;
    let missing = refused(&["check-config", "--config", "nowhere.toml"], folder.path()).await;
    assert!(missing.contains("nowhere.toml"), "{missing}");
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let folder = folder(&Config::new());
    let token = async |arguments: &[&str]| {
        let line = [&["token"][..], arguments, &["--config", "config.toml"]].concat();
        run(&line, folder.path()).await
    };
    let (status, stdout, _) = token(&["list"]).await;
    assert!(
        status.success() && stdout.contains("token create"),
        "{stdout}"
    );
    let create = ["create", "--label", "laptop", "--account", "acct"];
    let scope = ["--gateway", "gw", "--permissions", "gateway_run"];
    let (status, text, told) = token(&[&create[..], &scope].concat()).await;
    assert!(status.success(), "{told}");
    // Standard output is the token and nothing else, for scripts.
    assert_eq!(text.lines().count(), 1, "{text}");
    let text = text.trim();
    assert!(
        told.contains("cf-aig-authorization") && !told.contains(text),
        "{told}"
    );
    let (_, listed, _) = token(&["list"]).await;
    let line = listed.lines().find(|line| line.contains("laptop"));
    let line = line.unwrap_or_else(|| panic!("not listed: {listed}"));
    assert!(
        line.contains("acct/gw") && line.contains("gateway_run"),
        "{line}"
    );
    assert!(!listed.contains(text), "{listed}");
    let id = line.split_whitespace().next().expect("an id");
    assert!(told.contains(id), "{told}");
    let (status, _, stderr) = token(&["revoke", id]).await;
    assert!(status.success(), "{stderr}");
    let (status, _, stderr) = token(&["revoke", id]).await;
    assert!(
        !status.success() && stderr.contains("token list"),
        "{stderr}"
    );
    let (_, listed, _) = token(&["list"]).await;
    assert!(!listed.contains("laptop"), "{listed}");
    let unknown = ["create", "--label", "x", "--permissions", "everything"];
    let (status, stdout, stderr) = token(&unknown).await;
    assert!(!status.success() && stdout.is_empty(), "{stdout}");
    assert!(stderr.contains("everything"), "{stderr}");
}

#[tokio::test]
async fn logs_tail_shows_the_last_rows_and_says_what_it_needs() {
    let answer = chat_answer("gpt-4o-mini", "hello", 11, 3);
    let upstream = ScriptedUpstream::replying(Reply::json(200, &answer)).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await;
    let here = Config::new().set("server", &format!("listen = \"{}\"", gateway.server));
    write(gateway.folder(), "tail.toml", &here);
    let tail = ["logs", "tail", "--config", "tail.toml", "--no-follow"];
    assert_eq!(printed(&tail, gateway.folder()).await, "");
    for model in ["model-a", "model-b", "model-c"] {
        gateway
            .send(&Request::post(CHAT, &chat(model, false)))
            .await
            .expect_status(200);
    }
    gateway.rows("default", "default", 3).await;
    let last = printed(&[&tail[..], &["-n", "2"]].concat(), gateway.folder()).await;
    assert_eq!(last.lines().count(), 2, "{last}");
    assert!(
        last.lines()
            .all(|line| line.contains(" 200 openai gpt-4o-mini ")),
        "{last}"
    );
    assert!(last.contains("in=11 out=3"), "{last}");
    let unknown = [&tail[..], &["--gateway", "nowhere"]].concat();
    let stderr = refused(&unknown, gateway.folder()).await;
    assert!(stderr.contains("nowhere"), "{stderr}");
    // With tokens it needs one, says so, and never shows it.
    let create = ["token", "create", "--config", "config.toml", "--label", "t"];
    let token = printed(&create, gateway.folder()).await;
    let needs = eventually("tail to be refused", async || {
        let (status, _, stderr) = run(&tail, gateway.folder()).await;
        (!status.success()).then_some(stderr)
    })
    .await;
    assert!(needs.contains("AI_GATEWAY_TOKEN"), "{needs}");
    let with = [&tail[..], &["--token", token.trim()]].concat();
    assert_eq!(printed(&with, gateway.folder()).await.lines().count(), 3);
    let nobody = Config::new().set(
        "server",
        &format!("listen = \"{}\"", tests::upstream::closed_port()),
    );
    write(gateway.folder(), "tail.toml", &nobody);
    let stderr = refused(&with, gateway.folder()).await;
    assert!(stderr.contains("ai-gateway serve"), "{stderr}");
    assert!(!stderr.contains(token.trim()), "{stderr}");
}

#[tokio::test]
async fn logs_tail_reads_a_gateway_with_tls_and_knows_it_by_its_certificate() {
    let answer = chat_answer("gpt-4o-mini", "hello", 11, 3);
    let upstream = ScriptedUpstream::replying(Reply::json(200, &answer)).await;
    let files = tempfile::tempdir().expect("a temporary folder");
    let certificate = TestCertificate::of(&["localhost"]);
    let (cert, key) = certificate.write(files.path());
    let with_tls = |config: Config| {
        config
            .set("server.tls", &format!("cert = {cert:?}"))
            .set("server.tls", &format!("key = {key:?}"))
    };
    let config = Config::new().provider("openai", &upstream.url("/v1"));
    let gateway = TestGateway::start(with_tls(config)).await;
    let here = Config::new().set("server", &format!("listen = \"{}\"", gateway.server));
    write(gateway.folder(), "tail.toml", &with_tls(here));
    let request = Request::post(CHAT, &chat("gpt-4o-mini", false));
    certificate
        .send_http1(gateway.server, &request)
        .await
        .expect_status(200);
    let tail = ["logs", "tail", "--config", "tail.toml", "--no-follow"];
    eventually("the row", async || {
        let shown = printed(&tail, gateway.folder()).await;
        (shown.lines().count() == 1).then_some(())
    })
    .await;
    // Another's certificate in the file is not the one that this gateway shows.
    TestCertificate::of(&["localhost"]).write(files.path());
    refused(&tail, gateway.folder()).await;
}

#[tokio::test]
async fn models_are_listed_with_what_is_on_disk() {
    let folder = folder(&Config::new());
    let list = ["model", "list", "--config", "config.toml"];
    let listed = printed(&list, folder.path()).await;
    assert!(listed.contains("smollm2-135m-instruct"), "{listed}");
    let stderr = refused(
        &[
            "model",
            "pull",
            "@cf/no/such-model",
            "--config",
            "config.toml",
        ],
        folder.path(),
    )
    .await;
    assert!(stderr.contains("@cf/no/such-model"), "{stderr}");
}

/// On the tiny models that the engine's own tests are made of.
#[tokio::test]
async fn an_adapter_is_merged_into_its_base() {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("../local-inference/tests/parity");
    let base = parity.join("decoders/llama32").display().to_string();
    let adapter = parity.join("adapters/llama32_linear").display().to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["finetune", "merge", &base, &adapter, "merged"];
    let said = printed(&arguments, folder.path()).await;
    assert!(said.starts_with("14 matrices changed"), "{said}");
    for file in ["config.json", "model.safetensors"] {
        assert!(folder.path().join("merged").join(file).exists(), "{file}");
    }
    let said = refused(&arguments, folder.path()).await;
    assert!(said.contains("`merged` is there already"), "{said}");
    let said = refused(&["finetune", "merge", &base, &base, "other"], folder.path()).await;
    assert!(said.contains("adapter_config.json"), "{said}");
}

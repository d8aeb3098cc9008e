//! Runs a program of `tests/sdk/` and reads its report.

use super::{Language, Report};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tests::within_patience;
use tokio::process::Command;

/// The report of `program`, or `None`, with a word on stderr, when its packages are not here.
pub async fn run(language: Language, program: &str, arguments: &[String]) -> Option<Report> {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let mut command = match language {
        Language::Python => {
            let mut command = Command::new(python()?);
            command.arg(programs.join(format!("python/{program}.py")));
            command
        }
        Language::Node => {
            let mut command = Command::new("node");
            command.arg(programs.join(format!("node/{program}.cjs")));
            command
        }
    };
    // No proxy, key or base URL of the machine may steer a client.
    command
        .env_clear()
        .envs(
            ["PATH", "HOME", "TMPDIR"]
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if language == Language::Node {
        command.env("NODE_PATH", node_modules()?);
    }
    let child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{language:?} does not start: {error}"));
    let output = within_patience(program, child.wait_with_output())
        .await
        .expect("readable output");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{program} for {language:?} ended with {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(Report(text.lines().map(case).collect()))
}

fn case(line: &str) -> (String, Value) {
    let mut seen: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
    let name = seen
        .as_object_mut()
        .and_then(|seen| seen.remove("case"))
        .and_then(|name| Some(name.as_str()?.to_owned()))
        .unwrap_or_else(|| panic!("{line:?} names no case"));
    (name, seen)
}

/// `AI_GATEWAY_TEST_PYTHON`, or the one where scripts/test makes it, when it holds the clients.
fn python() -> Option<PathBuf> {
    let python = match std::env::var_os("AI_GATEWAY_TEST_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => target_folder().join("test-venv/bin/python3"),
    };
    let libraries = python.parent()?.parent()?.join("lib");
    let has_clients = std::fs::read_dir(libraries).is_ok_and(|mut versions| {
        versions.any(|version| {
            version.is_ok_and(|version| version.path().join("site-packages/openai").exists())
        })
    });
    found(has_clients.then_some(python), "the Python clients")
}

/// `AI_GATEWAY_TEST_NODE_MODULES`, or the one where scripts/test makes it.
fn node_modules() -> Option<PathBuf> {
    let folder = match std::env::var_os("AI_GATEWAY_TEST_NODE_MODULES") {
        Some(path) => PathBuf::from(path),
        None => target_folder().join("test-node/node_modules"),
    };
    let has_clients = folder.join("openai").exists();
    found(
        has_clients.then_some(folder),
        "the Node clients (for Node 20 or later)",
    )
}

fn found(place: Option<PathBuf>, what: &str) -> Option<PathBuf> {
    if place.is_none() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test of the official clients");
        eprintln!("SKIPPED: {test}: {what} are not installed; scripts/test does that");
    }
    place
}

/// The target directory, seen from `target/debug/ai-gateway`.
fn target_folder() -> PathBuf {
    let program = tests::gateway::program();
    program
        .parent()
        .and_then(Path::parent)
        .expect("the program stands in a profile folder of the target folder")
        .to_owned()
}

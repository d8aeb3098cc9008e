//! The built program as a child process: started on free ports, watched, stopped, killed, restarted.

use crate::{Answer, Config, Request, client, eventually, within_patience};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// Environment a child may see. Nothing else: a key on the developer's machine must not steer a test.
const PASSED_ON: [&str; 6] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LLVM_PROFILE_FILE",
    "RUST_LOG",
];

/// A running gateway. Dropping it kills the process and fails the test if the process ever panicked.
pub struct TestGateway {
    pub server: SocketAddr,
    pub admin: SocketAddr,
    folder: Arc<TempDir>,
    environment: Vec<(String, String)>,
    child: Child,
    stderr: Arc<Mutex<String>>,
}

impl TestGateway {
    pub async fn start(config: Config) -> TestGateway {
        TestGateway::start_with(config, &[]).await
    }

    /// Starts with further environment variables.
    pub async fn start_with(config: Config, environment: &[(&str, &str)]) -> TestGateway {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        std::fs::write(
            folder.path().join("config.toml"),
            config.render(folder.path()),
        )
        .expect("a writable folder");
        let environment = environment
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        TestGateway::spawn(folder, environment).await
    }

    async fn spawn(folder: Arc<TempDir>, environment: Vec<(String, String)>) -> TestGateway {
        let arguments = ["serve", "--config", "config.toml"];
        let (child, stderr) = TestGateway::launch(&arguments, &folder, &environment);
        TestGateway::listening(folder, environment, child, stderr).await
    }

    /// Starts a second process on the same files and has this one hand its listeners over to it, as
    /// an operator upgrades. Answers the new one; this one is on its way out.
    pub async fn upgrade(&self) -> TestGateway {
        let (folder, environment) = (self.folder.clone(), self.environment.clone());
        let arguments = ["serve", "--config", "config.toml", "--upgrade"];
        let (child, stderr) = TestGateway::launch(&arguments, &folder, &environment);
        eventually("the new process to wait for listeners", async || {
            locked(&stderr).contains("hand over").then_some(())
        })
        .await;
        self.signal("QUIT");
        TestGateway::listening(folder, environment, child, stderr).await
    }

    fn launch(
        arguments: &[&str],
        folder: &TempDir,
        environment: &[(String, String)],
    ) -> (Child, Arc<Mutex<String>>) {
        let mut child = command(arguments, folder.path())
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .spawn()
            .expect("the gateway starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let reading = child.stderr.take().expect("stderr is piped");
        tokio::spawn(collect(reading, stderr.clone()));
        (child, stderr)
    }

    async fn listening(
        folder: Arc<TempDir>,
        environment: Vec<(String, String)>,
        mut child: Child,
        stderr: Arc<Mutex<String>>,
    ) -> TestGateway {
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let line = within_patience("the gateway's listening line", lines.next_line())
            .await
            .expect("readable");
        let Some(line) = line else {
            let status = child.wait().await.expect("a child can be waited for");
            panic!(
                "the gateway ended ({status}) before it listened: {}",
                locked(&stderr)
            );
        };
        let event: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("`{line}` is no JSON: {error}"));
        assert_eq!(event["event"], "listening", "first line on stdout: {line}");
        let address = |name: &str| {
            event[name]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("an address")
        };
        TestGateway {
            server: address("server"),
            admin: address("admin"),
            folder,
            environment,
            child,
            stderr,
        }
    }

    /// One request on a connection of its own, to the data plane.
    pub async fn send(&self, request: &Request) -> Answer {
        client::send(self.server, request).await
    }

    /// GET on the admin listener.
    pub async fn admin(&self, path: &str) -> Answer {
        client::send(self.admin, &Request::get(path)).await
    }

    /// The value of one series in `/metrics`: the first line that begins so. Absent is 0.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").await.expect_status(200).text();
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next())
            .and_then(|value| value.parse().ok())
            .unwrap_or(0.0)
    }

    pub fn stderr(&self) -> String {
        locked(&self.stderr)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn process_id(&self) -> u32 {
        self.child.id().expect("the gateway runs")
    }

    /// Resident memory, bytes.
    pub fn memory_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.process_id()))
            .expect("a running process");
        let pages: u64 = text
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .expect("a page count");
        pages * 4096
    }

    pub fn write_config(&self, config: &Config) {
        let path = self.folder.path().join("config.toml");
        let written = self.folder.path().join("config.toml.new");
        std::fs::write(&written, config.render(self.folder.path())).expect("a writable folder");
        std::fs::rename(written, path).expect("a writable folder");
    }

    /// Sends a signal by its name, as an operator would.
    pub fn signal(&self, name: &str) {
        let done = std::process::Command::new("sh")
            .args([
                "-c",
                "kill -s \"$0\" \"$1\"",
                name,
                &self.process_id().to_string(),
            ])
            .status()
            .expect("a shell");
        assert!(done.success(), "cannot send SIG{name}");
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        within_patience("the gateway to end", self.child.wait())
            .await
            .expect("a child can be waited for")
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Ends the process with SIGKILL and starts it again on the same data.
    pub async fn kill_and_restart(mut self) -> TestGateway {
        self.kill().await;
        TestGateway::spawn(self.folder.clone(), self.environment.clone()).await
    }

    pub async fn terminate_and_restart(mut self) -> TestGateway {
        self.signal("TERM");
        self.exit().await;
        TestGateway::spawn(self.folder.clone(), self.environment.clone()).await
    }

    /// Waits until the log on stderr contains `words`.
    pub async fn logged(&self, words: &str) {
        eventually(&format!("`{words}` on stderr"), async || {
            self.stderr().contains(words).then_some(())
        })
        .await;
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let text = self.stderr();
        if std::thread::panicking() {
            eprintln!("--- the gateway's stderr\n{text}---");
        } else {
            assert!(
                !text.contains("panicked at"),
                "the gateway panicked:\n{text}"
            );
        }
    }
}

/// Runs a subcommand to its end.
pub async fn run(arguments: &[&str], folder: &Path) -> (ExitStatus, String, String) {
    let child = command(arguments, folder)
        .spawn()
        .expect("the gateway starts");
    let output = within_patience("a subcommand to end", child.wait_with_output())
        .await
        .expect("readable output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status, text(output.stdout), text(output.stderr))
}

fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(folder).env_clear();
    command
        .envs(
            PASSED_ON
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("RUST_BACKTRACE", "1");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The program under test: `AI_GATEWAY_BIN`, or the one cargo put beside this test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("AI_GATEWAY_BIN") {
        return path.into();
    }
    let path = target_folder().join("ai-gateway");
    assert!(
        path.exists(),
        "no {}: run `cargo build` first, or set AI_GATEWAY_BIN",
        path.display()
    );
    path
}

/// Where the local model was pulled to: `AI_GATEWAY_MODEL_DIR`, or `models` in the target directory.
pub fn model_folder() -> PathBuf {
    let folder = match std::env::var_os("AI_GATEWAY_MODEL_DIR") {
        Some(path) => path.into(),
        None => target_folder()
            .parent()
            .expect("a profile folder stands in the target folder")
            .join("models"),
    };
    assert!(
        folder.exists(),
        "no models in {}: scripts/test pulls them",
        folder.display()
    );
    folder
}

/// `target/debug`, seen from `target/debug/deps/suite-…`.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.parent()
        .and_then(Path::parent)
        .expect("cargo puts tests two folders deep")
        .to_owned()
}

async fn collect(mut reading: impl AsyncRead + Unpin, into: Arc<Mutex<String>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = reading.read(&mut buffer).await {
        into.lock()
            .expect("no holder panics")
            .push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

fn locked(text: &Mutex<String>) -> String {
    text.lock().expect("no holder panics").clone()
}

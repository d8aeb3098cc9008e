//! A real redis-server for tests, on a free port, without files.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Redis;
use crate::config;
use std::sync::Arc;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct TestServer {
    port: u16,
    child: Option<Child>,
}

impl TestServer {
    /// `None`, with the reason printed, where no redis-server is installed.
    pub(crate) fn start(test: &str) -> Option<TestServer> {
        if Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            eprintln!("SKIPPED: {test}: redis-server is not installed");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = TestServer {
            port: free.local_addr().unwrap().port(),
            child: None,
        };
        drop(free);
        server.restart();
        Some(server)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A new, empty server on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::yield_now();
        }
    }

    /// The process stays but answers nothing, as on an overloaded machine.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn config(&self) -> config::Redis {
        config::Redis {
            url: config::Secret::new(format!("redis://127.0.0.1:{}", self.port)),
            key_prefix: "test".into(),
            connect_timeout: Duration::from_secs(5),
            // Long: a busy machine must not turn an exactness test into a fallback test.
            command_timeout: Duration::from_secs(5),
        }
    }

    pub(crate) async fn open(&self) -> Arc<Redis> {
        Redis::open(&self.config()).await.unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

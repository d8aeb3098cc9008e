//! What is measured: each a process of its own with one worker thread, pinned to one CPU, in front
//! of the same mock. They end with this process.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::exchange::Mode;
use crate::options::Options;

/// Longest wait for a subject to listen.
const MAX_START: Duration = Duration::from_secs(20);

pub struct Subject {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
    is_gateway: bool,
    _folder: TempDir,
}

impl Subject {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn serves(&self, mode: Mode) -> bool {
        mode != Mode::Hit || self.name != "pingora"
    }

    pub fn path(&self, mode: Mode) -> &'static str {
        match (self.is_gateway, mode) {
            (true, Mode::Hit) => "/v1/default/cached/openai/chat/completions",
            (true, _) => "/v1/default/default/openai/chat/completions",
            (false, Mode::Hit) => "/cached/v1/chat/completions",
            (false, _) => "/v1/chat/completions",
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Whether it ended by itself does not matter any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts those that were asked for, and waits until each listens.
pub async fn start(options: &Options, mock: SocketAddr) -> Result<Vec<Subject>, String> {
    let mut subjects = Vec::new();
    for name in ["nginx", "pingora", "gateway", "bodies"] {
        if !options.wants(name) {
            continue;
        }
        let subject = start_one(name, options, mock).map_err(|error| format!("{name}: {error}"))?;
        listens(&subject).await?;
        subjects.push(subject);
    }
    match subjects.is_empty() {
        true => Err(format!("no such subject\n{}", crate::options::USAGE)),
        false => Ok(subjects),
    }
}

fn start_one(
    name: &'static str,
    options: &Options,
    mock: SocketAddr,
) -> Result<Subject, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let address = free_address()?;
    let is_gateway = matches!(name, "gateway" | "bodies");
    // `taskset` becomes the program, so the child's id is the program's.
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &options.cpu.to_string()]);
    match name {
        "nginx" => {
            let config = folder.path().join("nginx.conf");
            fs::write(&config, nginx_config(folder.path(), address, mock))?;
            let errors = folder.path().join("error.log");
            command.arg("nginx").arg("-p").arg(folder.path());
            command.arg("-c").arg(config).arg("-e").arg(errors);
        }
        "pingora" => {
            command.arg(std::env::current_exe()?).arg("passthrough");
            command.args([address.to_string(), mock.to_string()]);
        }
        _ => {
            let config = folder.path().join("config.toml");
            let text = gateway_config(folder.path(), address, mock, name == "bodies")?;
            fs::write(&config, text)?;
            command.arg(&options.gateway).arg("serve").arg("--config");
            command.arg(config).current_dir(folder.path());
        }
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    Ok(Subject {
        name,
        address,
        child,
        is_gateway,
        _folder: folder,
    })
}

/// A port that was free a moment ago.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

async fn listens(subject: &Subject) -> Result<(), String> {
    let connects = async {
        while TcpStream::connect(subject.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(MAX_START, connects)
        .await
        .map_err(|_| {
            format!(
                "{} does not listen after {} s",
                subject.name,
                MAX_START.as_secs()
            )
        })
}

/// One worker (a single process serves), keep-alive on both sides, nothing buffered or logged, and
/// a cache whose key is the question.
fn nginx_config(folder: &Path, address: SocketAddr, mock: SocketAddr) -> String {
    include_str!("../nginx.conf")
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@LISTEN@", &address.to_string())
        .replace("@UPSTREAM@", &mock.to_string())
}

/// Everything as it is by default, but for the one thread, the bodies, and a gateway that caches.
fn gateway_config(
    folder: &Path,
    address: SocketAddr,
    mock: SocketAddr,
    has_bodies: bool,
) -> std::io::Result<String> {
    let (data, admin) = (folder.join("data"), free_address()?);
    Ok(format!(
        "[server]\nlisten = \"{address}\"\nthreads = 1\n\
         [admin]\nlisten = \"{admin}\"\n\
         [data]\ndir = \"{}\"\n\
         [log]\nlevel = \"warn\"\n\
         [records]\ncapture_bodies = {has_bodies}\n\
         [providers.openai]\nbase_url = \"http://{mock}/v1\"\n\
         [[gateways]]\naccount = \"default\"\nid = \"cached\"\ncache_ttl = 3600\n",
        data.display()
    ))
}

//! The two servers as child processes.

use crate::adapters::Adapter;
use crate::client::{Target, post};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Attention memory of ours, MiB: room for sixteen callers, and less than a round fills, so that all of it is resident after.
pub const KV_CACHE_MIB: usize = 128;

const MODEL: &str = "@bench/model";
const AI: &str = "/client/v4/accounts/default/ai";

pub struct Server {
    child: Child,
    pub target: Target,
    /// What its requests put into `lora` for adapter 0, 1, and so on.
    pub loras: Vec<serde_json::Value>,
    _folder: tempfile::TempDir,
}

/// CPU time, by threads: those of our engine have its name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub engine_us: f64,
    pub others_us: f64,
}

impl Cpu {
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            engine_us: self.engine_us - before.engine_us,
            others_us: self.others_us - before.others_us,
        }
    }

    pub fn per(self, count: usize) -> Cpu {
        Cpu {
            engine_us: self.engine_us / count as f64,
            others_us: self.others_us / count as f64,
        }
    }
}

/// Where builds and models lie.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

impl Server {
    pub fn gateway(model: &Path, threads: usize) -> Server {
        let binary = std::env::var_os("AI_GATEWAY_BIN")
            .map_or_else(|| target().join("release/ai-gateway"), PathBuf::from);
        let (listen, admin) = (free_port(), free_port());
        let folder = tempfile::tempdir().expect("a folder for the gateway's data");
        let model = model.canonicalize().expect("the model's file is there");
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:{listen}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n[data]\ndir = {data:?}\n\
             [engine]\nmodels = []\nthreads = {threads}\nmax_running = 16\nkv_cache_mib = {KV_CACHE_MIB}\n\
             [engine.custom_models.{MODEL:?}]\npath = {model:?}\ncontext = 1024\n",
            data = folder.path(),
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, config).expect("a writable folder");
        let child = Command::new(&binary)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{}: {error}; build it with `cargo build --release -p gateway`",
                    binary.display()
                )
            });
        Server {
            child,
            target: Target {
                address: format!("127.0.0.1:{listen}"),
                path: format!("{AI}/v1/completions"),
                model: MODEL.to_owned(),
                lora: None,
            },
            loras: Vec::new(),
            _folder: folder,
        }
    }

    /// Gives it the adapters, as any client would.
    pub async fn upload(&mut self, adapters: &[Adapter]) {
        for (index, adapter) in adapters.iter().enumerate() {
            let name = format!("bench-{index}");
            let body = serde_json::json!({"model": MODEL, "name": name}).to_string();
            let path = format!("{AI}/finetunes");
            let address = &self.target.address;
            post(address, &path, "application/json", body.as_bytes()).await;
            for (file, from) in [
                ("adapter_config.json", &adapter.config),
                ("adapter_model.safetensors", &adapter.weights),
            ] {
                const BOUNDARY: &str = "5f0a8d1c";
                let part = |name: &str| {
                    format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"")
                };
                let mut body = format!(
                    "{}\r\n\r\n{file}\r\n{}; filename=\"blob\"\r\n\r\n",
                    part("file_name"),
                    part("file")
                )
                .into_bytes();
                body.extend(std::fs::read(from).expect("it was just written"));
                body.extend(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
                let path = format!("{AI}/finetunes/{name}/finetune-assets");
                let kind = format!("multipart/form-data; boundary={BOUNDARY}");
                post(address, &path, &kind, &body).await;
            }
            self.loras.push(serde_json::json!(name));
        }
    }

    pub fn llama(binary: &Path, model: &Path, threads: usize, adapters: &[Adapter]) -> Server {
        let loras = adapters.iter().flat_map(|adapter| {
            let file = adapter.gguf.as_os_str();
            [std::ffi::OsStr::new("--lora"), file]
        });
        let port = free_port();
        let count = threads.to_string();
        let child = Command::new(binary)
            .args([
                "--port",
                &port.to_string(),
                "--parallel",
                "16",
                "--ctx-size",
                "16384",
            ])
            .args(["--threads", &count, "--threads-batch", &count, "--no-webui"])
            .arg("--model")
            .arg(model)
            .args(loras)
            .args((!adapters.is_empty()).then_some("--lora-init-without-apply"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        Server {
            child,
            target: Target {
                address: format!("127.0.0.1:{port}"),
                path: "/v1/completions".to_owned(),
                model: "model".to_owned(),
                // Adapters a request does not speak of would be applied, all of them.
                lora: (!adapters.is_empty()).then(|| serde_json::json!([{"id": 0, "scale": 0.0}])),
            },
            loras: (0..adapters.len())
                .map(|id| serde_json::json!([{"id": id, "scale": 1.0}]))
                .collect(),
            _folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Waits until the port answers; llama.cpp's opens before its model is loaded, so health is asked there.
    pub async fn ready(&self) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let request = format!(
            "GET /health HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.target.address
        );
        for _ in 0..600 {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(&self.target.address).await {
                let mut answer = Vec::new();
                let asked = stream.write_all(request.as_bytes()).await;
                let read = stream.read_to_end(&mut answer).await;
                let is_loading = answer.starts_with(b"HTTP/1.1 503");
                if asked.is_ok() && read.is_ok() && !answer.is_empty() && !is_loading {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no server at {} after a minute", self.target.address);
    }

    /// CPU time of all threads that are still there. The servers' threads live as long as they do.
    pub fn cpu(&self) -> Cpu {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let mut cpu = Cpu::default();
        for thread in threads.expect("the server runs").flatten() {
            let read = |file: &str| std::fs::read_to_string(thread.path().join(file));
            let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else {
                continue;
            };
            // Nanoseconds on a core, nanoseconds waiting for one, turns.
            let ns: f64 = stat
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse().ok())
                .unwrap_or(0.0);
            match name.starts_with("engine") {
                true => cpu.engine_us += ns / 1e3,
                false => cpu.others_us += ns / 1e3,
            }
        }
        cpu
    }

    pub fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

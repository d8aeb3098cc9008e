//! `ai-gateway finetune create | list | delete`: asks a running gateway's API, as any client would; and `merge`, which asks none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::stream;
use local_inference::{AdapterFiles, merge_adapter};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::FileKind;
use crate::config::Config;
use crate::models::progress::Progress;
use crate::tail::{self, escape};

/// Bytes read from a file at once.
const PIECE_BYTES: usize = 256 << 10;

/// The fine-tunes of an account on a running gateway.
pub struct Api {
    client: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// A folder that holds both files of an adapter.
pub struct Folder(PathBuf);

impl Folder {
    pub fn find(path: &Path) -> anyhow::Result<Folder> {
        for kind in FileKind::ALL {
            let file = path.join(kind.name());
            ensure!(
                file.is_file(),
                "there is no `{}`; name the folder that PEFT's save_pretrained wrote, with {} and {} in it",
                file.display(),
                FileKind::Config.name(),
                FileKind::Weights.name()
            );
        }
        Ok(Folder(path.to_owned()))
    }
}

impl Api {
    pub fn new(config: &Config, account: &str, token: Option<String>) -> anyhow::Result<Api> {
        Ok(Api {
            client: tail::client(config.server.tls.as_ref())?,
            base: format!("{}/ai/finetunes", tail::address(config, account)),
            token,
        })
    }

    /// Makes a fine-tune and sends its files. One whose files are refused is removed again.
    pub async fn create(&self, new: &Value, folder: &Folder) -> anyhow::Result<()> {
        let request = self.client.post(&self.base);
        let request = request
            .header("content-type", "application/json")
            .body(new.to_string());
        let made = self.ask(request).await?;
        let id = made["result"]["id"]
            .as_str()
            .context("the answer has no id")?;
        for kind in FileKind::ALL {
            if let Err(error) = self.upload(id, kind, folder).await {
                return Err(match self.remove(id).await {
                    Ok(()) => error.context("the fine-tune was not made"),
                    Err(_) => error.context(format!(
                        "the fine-tune {id} was made without its files; delete it before trying again"
                    )),
                });
            }
        }
        let text = |field: &str| escape(made["result"][field].as_str().unwrap_or_default());
        println!("{id}");
        eprintln!(
            "ask {} with `\"lora\": \"{}\"`",
            text("model"),
            text("name")
        );
        Ok(())
    }

    pub async fn list(&self) -> anyhow::Result<()> {
        let list = self.ask(self.client.get(&self.base)).await?;
        let rows = list["result"]
            .as_array()
            .context("the answer has no list")?;
        if rows.is_empty() {
            println!("no fine-tunes; make one with `ai-gateway finetune create MODEL NAME FOLDER`");
        }
        for row in rows {
            let text = |field: &str| escape(row[field].as_str().unwrap_or_default());
            let files = row["files"].as_array().map_or(0, Vec::len);
            let rank = row["rank"].as_u64();
            let state = match rank {
                Some(rank) => format!("rank {rank}"),
                None => format!("{files} of {} files", FileKind::ALL.len()),
            };
            let shared = if row["public"] == true {
                "  public"
            } else {
                ""
            };
            println!(
                "{}  {}  {}  {state}{shared}  {}",
                text("id"),
                text("name"),
                text("model"),
                text("description")
            );
        }
        Ok(())
    }

    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.remove(name).await?;
        println!("fine-tune {} is deleted", escape(name));
        Ok(())
    }

    async fn remove(&self, name: &str) -> anyhow::Result<()> {
        let request = self.client.delete(self.path(name));
        self.ask(request).await.map(|_| ())
    }

    fn path(&self, name: &str) -> String {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        format!("{}/{name}", self.base)
    }

    async fn upload(&self, id: &str, kind: FileKind, folder: &Folder) -> anyhow::Result<()> {
        let path = folder.0.join(kind.name());
        let file = File::open(&path)
            .await
            .with_context(|| format!("reading `{}`", path.display()))?;
        let bytes = file.metadata().await?.len();
        let boundary = Uuid::new_v4().simple().to_string();
        let part =
            |name: &str| format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"");
        let opening = format!(
            "{}\r\n\r\n{}\r\n{}; filename=\"{}\"\r\ncontent-type: application/octet-stream\r\n\r\n",
            part("file_name"),
            kind.name(),
            part("file"),
            kind.name()
        );
        let closing = format!("\r\n--{boundary}--\r\n");
        let length = opening.len() as u64 + bytes + closing.len() as u64;
        eprintln!("sending {}", kind.name());
        let progress = Arc::new(Progress::new(Some(bytes)));
        let body = Body {
            file: file.take(bytes),
            opening: Some(opening.into()),
            closing: Some(closing.into()),
            progress: Arc::clone(&progress),
            sent: 0,
        };
        let pieces = stream::unfold(body, |mut body| async {
            let piece = body.next().await.transpose()?;
            Some((piece, body))
        });
        let request = self
            .client
            .post(format!("{}/finetune-assets", self.path(id)));
        let request = request
            .header(
                "content-type",
                format!("multipart/form-data; boundary={boundary}"),
            )
            .header("content-length", length)
            .body(reqwest::Body::wrap_stream(pieces));
        let answer = self.ask(request).await;
        progress.finish();
        answer.map(|_| ())
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.with_context(|| {
            format!(
                "no gateway answers at {}; start one with `ai-gateway serve`",
                self.base
            )
        })?;
        let status = response.status();
        let text = response.text().await?;
        let body: Value =
            serde_json::from_str(&text).context("the gateway's answer is not JSON")?;
        if !status.is_success() {
            let message = body["errors"][0]["message"].as_str();
            let hint = match status.as_u16() {
                401 | 403 => "; with tokens, set AI_GATEWAY_TOKEN to one that may edit Workers AI",
                _ => "",
            };
            bail!("{}{hint}", escape(message.unwrap_or("no reason given")));
        }
        Ok(body)
    }
}

/// Writes the base with the adapter in it to `out`.
pub fn merge(base: &Path, folder: &Folder, out: &Path) -> anyhow::Result<()> {
    let read = |kind: FileKind| {
        let path = folder.0.join(kind.name());
        std::fs::read(&path).with_context(|| format!("reading `{}`", path.display()))
    };
    let files = AdapterFiles {
        config: read(FileKind::Config)?,
        weights: read(FileKind::Weights)?,
    };
    let changed = merge_adapter(base, &files, out)?;
    println!(
        "{changed} matrices changed; serve the model by naming `{}` in [engine.custom_models]",
        out.display()
    );
    Ok(())
}

/// A multipart body with one file in it, read as it is sent.
struct Body {
    file: tokio::io::Take<File>,
    opening: Option<Bytes>,
    closing: Option<Bytes>,
    progress: Arc<Progress>,
    sent: u64,
}

impl Body {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Ok(Some(opening));
        }
        let mut piece = vec![0; PIECE_BYTES];
        let read = self.file.read(&mut piece).await?;
        if read == 0 {
            return Ok(self.closing.take());
        }
        piece.truncate(read);
        self.sent += read as u64;
        self.progress.set(self.sent);
        Ok(Some(piece.into()))
    }
}

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// How a scripted server answers one request.
#[derive(Clone, Copy)]
enum Answer {
    /// The range asked for, whole.
    Range,
    /// The range asked for, and the connection closed after so many bytes of it.
    CutAfter(usize),
    /// The whole file, whatever was asked.
    IgnoreRange,
    /// As many other bytes.
    WrongBytes,
    Status(&'static str),
}

/// Serves `content` by one answer a request; gives its URL and the ranges it was asked for.
async fn server(content: Vec<u8>, answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.expect("a whole head"));
            }
            let head = String::from_utf8(head).expect("text").to_lowercase();
            let from = head
                .split("range: bytes=")
                .nth(1)
                .and_then(|rest| rest.split('-').next()?.parse().ok())
                .unwrap_or(0usize);
            log.lock().expect("no panic").push(from);
            let partial = |body: &[u8]| {
                let status = match from {
                    0 => "200 OK".to_owned(),
                    _ => format!(
                        "206 Partial Content\r\ncontent-range: bytes {from}-{}/{}",
                        content.len() - 1,
                        content.len()
                    ),
                };
                (status, content.len() - from, body.to_vec())
            };
            let (status, length, body) = match answer {
                Answer::Range => partial(&content[from..]),
                Answer::CutAfter(bytes) => partial(&content[from..][..bytes]),
                Answer::IgnoreRange => ("200 OK".to_owned(), content.len(), content.clone()),
                Answer::WrongBytes => partial(&vec![7; content.len() - from]),
                Answer::Status(status) => (status.to_owned(), 0, Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            socket.write_all(head.as_bytes()).await.expect("written");
            socket.write_all(&body).await.expect("written");
            let _ = socket.shutdown().await;
        }
    });
    (format!("http://{address}/model.gguf"), asked)
}

const PULLER: Puller<'static> = Puller {
    hub: "http://127.0.0.1:9",
    token: None,
};

fn content() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect()
}

fn entry(content: &[u8]) -> CatalogueEntry {
    let hash: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    CatalogueEntry {
        bytes: Some(content.len() as u64),
        sha256: Some(hash.into()),
        ..CatalogueEntry::custom("@cf/test/model", "model.gguf")
    }
}

/// A folder of its own, removed with its guard.
pub(super) struct Folder(pub PathBuf);

impl Folder {
    pub(super) fn new() -> Folder {
        Folder(std::env::temp_dir().join(format!("models-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Pulls through `answers`, beginning with `part` on disk; gives the result, what was asked, and what lies there after.
async fn pulled(
    part: Option<&[u8]>,
    answers: &[Answer],
) -> (anyhow::Result<()>, Vec<usize>, Option<Vec<u8>>) {
    let (content, folder) = (content(), Folder::new());
    std::fs::create_dir_all(&folder.0).expect("a folder");
    if let Some(part) = part {
        std::fs::write(folder.0.join("model.gguf.part"), part).expect("written");
    }
    let (url, asked) = server(content.clone(), answers.to_vec()).await;
    let sources = [Source::Url(url.leak())];
    let result = PULLER
        .pull_into(&folder.0, &entry(&content), &sources)
        .await;
    let asked = asked.lock().expect("no panic").clone();
    let file = std::fs::read(folder.0.join("model.gguf")).ok();
    assert_eq!(file.is_some(), result.is_ok());
    assert!(file.is_none() || !folder.0.join("model.gguf.part").exists());
    (result, asked, file)
}

#[tokio::test]
async fn a_download_is_checked_and_put_into_place() {
    let (result, asked, file) = pulled(None, &[Answer::Range]).await;
    result.expect("pulled");
    assert_eq!((asked, file), (vec![0], Some(content())));
}

#[tokio::test]
async fn a_part_is_continued_where_it_stopped() {
    let (result, asked, file) = pulled(Some(&content()[..40_000]), &[Answer::Range]).await;
    result.expect("pulled");
    assert_eq!((asked, file), (vec![40_000], Some(content())));
}

#[tokio::test]
async fn a_connection_that_breaks_is_resumed() {
    let answers = [
        Answer::CutAfter(30_000),
        Answer::CutAfter(20_000),
        Answer::Range,
    ];
    let (result, asked, file) = pulled(None, &answers).await;
    result.expect("pulled");
    assert_eq!((asked, file), (vec![0, 30_000, 50_000], Some(content())));
}

#[tokio::test]
async fn a_server_without_ranges_makes_it_start_over() {
    let (result, asked, file) = pulled(Some(&[9; 40_000]), &[Answer::IgnoreRange]).await;
    result.expect("pulled");
    assert_eq!((asked, file), (vec![40_000], Some(content())));
}

#[tokio::test]
async fn a_wrong_part_is_thrown_away_and_fetched_again() {
    let (result, asked, file) = pulled(Some(&[9; 40_000]), &[Answer::Range, Answer::Range]).await;
    result.expect("pulled");
    assert_eq!((asked, file), (vec![40_000, 0], Some(content())));
    // A part that is longer than the file can be is none of it.
    let (result, asked, _) = pulled(Some(&[9; 200_000]), &[Answer::Range]).await;
    result.expect("pulled");
    assert_eq!(asked, [0]);
}

#[tokio::test]
async fn wrong_bytes_and_refusals_never_become_a_model() {
    let (result, ..) = pulled(None, &[Answer::WrongBytes]).await;
    assert!(
        result
            .expect_err("a wrong checksum")
            .to_string()
            .contains("checksum")
    );
    let (result, ..) = pulled(None, &[Answer::Status("404 Not Found")]).await;
    assert!(
        result
            .expect_err("no such file")
            .to_string()
            .contains("404")
    );
}

#[tokio::test]
async fn the_next_source_has_its_turn_when_one_is_out_of_reach() {
    let (content, folder) = (content(), Folder::new());
    let (url, _) = server(content.clone(), vec![Answer::Range]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dead = format!("http://{}/x", closed.local_addr().expect("an address"));
    drop(closed);
    let sources = [Source::Url(dead.leak()), Source::Url(url.leak())];
    PULLER
        .pull_into(&folder.0, &entry(&content), &sources)
        .await
        .expect("pulled");
    // Here already: no source is asked.
    PULLER
        .pull_into(&folder.0, &entry(&content), &[])
        .await
        .expect("nothing to do");
}

/// A hub with one repository, `it/is`, of these files, behind a token where one is given; gives its address and what it was asked for.
async fn hub(
    files: &'static [(&'static str, &'static str)],
    token: Option<&'static str>,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.expect("a whole head"));
            }
            let head = String::from_utf8(head).expect("text");
            let path = head.split(' ').nth(1).expect("a path");
            let name = path.strip_prefix("/it/is/resolve/main/").expect("a file");
            log.lock().expect("no panic").push(name.to_owned());
            let shown = head.to_lowercase();
            let is_let_in = token.is_none_or(|token| shown.contains(&format!("bearer {token}")));
            let found = files.iter().find(|(known, _)| *known == name);
            let (status, body) = match found {
                _ if !is_let_in => ("401 Unauthorized", ""),
                Some((_, body)) => ("200 OK", *body),
                None => ("404 Not Found", ""),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(answer.as_bytes()).await.expect("written");
            let _ = socket.shutdown().await;
        }
    });
    (format!("http://{address}"), asked)
}

fn folder_entry() -> CatalogueEntry {
    CatalogueEntry::custom("@cf/test/folder", "the-model")
}

const REPOSITORY: Source = Source::Hub {
    repository: "it/is",
    revision: "main",
    file: None,
    is_gated: true,
};

const SHARDED: &[(&str, &str)] = &[
    ("config.json", "{}"),
    ("tokenizer.json", "{\"t\": 1}"),
    ("generation_config.json", "{\"g\": 1}"),
    (
        "model.safetensors.index.json",
        r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
    ),
    ("m-1.safetensors", "one"),
    ("m-2.safetensors", "two"),
    ("modules.json", "of no use to a text model"),
];

#[tokio::test]
async fn a_folder_comes_file_by_file_and_is_held_to_what_came() {
    let (folder, (address, asked)) = (Folder::new(), hub(SHARDED, Some("abc")).await);
    let puller = Puller {
        hub: &address,
        token: Some("abc"),
    };
    let entry = folder_entry();
    let pull = async || puller.pull_into(&folder.0, &entry, &[REPOSITORY]).await;
    // One file came whole in an earlier run.
    let part = folder.0.join("the-model.part");
    std::fs::create_dir_all(&part).expect("a folder");
    std::fs::write(part.join("m-1.safetensors"), "one").expect("written");
    pull().await.expect("pulled");
    let read = |name: &str| std::fs::read_to_string(folder.0.join(name)).ok();
    assert_eq!(read("the-model/m-2.safetensors").as_deref(), Some("two"));
    assert_eq!(read("the-model/modules.json"), None);
    assert!(
        !asked
            .lock()
            .expect("no panic")
            .contains(&"m-1.safetensors".to_owned())
    );
    assert!(!part.exists() && entry.is_in(&folder.0));
    assert_eq!(entry.weight_bytes(&folder.0), 6);
    let note = read("the-model.sha256").expect("a note");
    let sum = checksum::of_file(&folder.0.join("the-model/m-1.safetensors")).await;
    assert!(note.contains(&format!(
        "{}  the-model/m-1.safetensors\n",
        sum.expect("read")
    )));
    assert_eq!(note.lines().count(), 6);

    let before = asked.lock().expect("no panic").len();
    pull().await.expect("here already");
    assert_eq!(asked.lock().expect("no panic").len(), before);
    std::fs::write(folder.0.join("the-model/m-1.safetensors"), "other").expect("written");
    let error = pull().await.expect_err("changed").to_string();
    assert!(error.contains("the-model.sha256"), "{error}");
}

#[tokio::test]
async fn a_closed_or_incomplete_repository_says_what_is_missing() {
    let entry = folder_entry();
    let pull = async |files: &'static [(&'static str, &'static str)], token| {
        let (folder, (address, _)) = (Folder::new(), hub(files, token).await);
        let puller = Puller {
            hub: &address,
            token: None,
        };
        let result = puller.pull_into(&folder.0, &entry, &[REPOSITORY]).await;
        assert!(!folder.0.join("the-model").exists());
        result.expect_err("not all is there").to_string()
    };
    let error = pull(SHARDED, Some("abc")).await;
    assert!(
        error.contains("HF_TOKEN") && error.contains("it/is"),
        "{error}"
    );
    let error = pull(&SHARDED[..1], None).await;
    assert!(error.contains("tokenizer.json"), "{error}");
    let error = pull(&SHARDED[..5], None).await;
    assert!(error.contains("m-2.safetensors"), "{error}");
    let error = pull(&SHARDED[..2], None).await;
    assert!(error.contains("safetensors"), "{error}");
    let error = PULLER.pull_into(&Folder::new().0, &entry, &[]).await;
    assert!(error.is_err_and(|error| error.to_string().contains("put its files at")));
}

#[tokio::test]
async fn a_file_without_a_checksum_is_noted_and_kept() {
    let (content, folder) = (content(), Folder::new());
    let entry = CatalogueEntry::custom("@cf/test/model", "model.gguf");
    std::fs::create_dir_all(&folder.0).expect("a folder");
    std::fs::write(folder.0.join("model.gguf.part"), &content[..40_000]).expect("written");
    let answers = vec![Answer::CutAfter(10_000), Answer::Range];
    let (url, asked) = server(content.clone(), answers).await;
    let sources = [Source::Url(url.leak())];
    PULLER
        .pull_into(&folder.0, &entry, &sources)
        .await
        .expect("pulled");
    assert_eq!(*asked.lock().expect("no panic"), [40_000, 50_000]);
    let there = std::fs::read(folder.0.join("model.gguf"));
    assert_eq!(there.expect("a file"), content);
    let note = std::fs::read_to_string(folder.0.join("model.gguf.sha256")).expect("a note");
    assert!(note.ends_with("  model.gguf\n"), "{note}");
    PULLER
        .pull_into(&folder.0, &entry, &[])
        .await
        .expect("here already");
}

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

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

fn content() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect()
}

fn entry(content: &[u8]) -> CatalogueEntry {
    let hash: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    CatalogueEntry {
        id: "@cf/test/model",
        description: "a test",
        file: "model.gguf",
        bytes: content.len() as u64,
        sha256: hash.leak(),
        context: 1,
        licence: "none",
        sources: &[],
    }
}

/// A folder of its own, removed with its guard.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
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
    let result = pull_into(&folder.0, &entry(&content), &[Source::Url(url.leak())]).await;
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
    pull_into(&folder.0, &entry(&content), &sources)
        .await
        .expect("pulled");
    // Here already: no source is asked.
    pull_into(&folder.0, &entry(&content), &[])
        .await
        .expect("nothing to do");
}

//! An upload's parts, as clients of the original send them: `file_name` says which file it is, `file` holds its bytes and may
//! come first; what a part calls its own file is `blob` as often as not and only asked where nothing else tells.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use multer::{Field, Multipart};
use pingora::protocols::http::ServerSession;

use crate::door::intake::{self, BodyLimits};
use crate::error::{GatewayError, Kind};
use crate::finetunes::{FileKind, FinetuneError, Folder, Receiving};
use crate::identify::shown;

/// Parts looked at; more is refused. Two files and their names make four.
const MAX_PARTS: usize = 16;
const MAX_NAME_BYTES: usize = 256;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes that may arrive without any part's name or content coming out of them; more is no multipart body.
const MAX_FRAMING_BYTES: usize = 256 << 10;

/// How large each file may be.
#[derive(Debug, Clone, Copy)]
pub struct FileLimits {
    pub max_config_bytes: u64,
    pub max_weights_bytes: u64,
}

impl FileLimits {
    fn check(self, kind: FileKind, bytes: u64) -> Result<(), GatewayError> {
        let (max, key) = match kind {
            FileKind::Config => (self.max_config_bytes, "fixed"),
            FileKind::Weights => (self.max_weights_bytes, "`finetunes.max_bytes`"),
        };
        match bytes > max {
            true => Err(FinetuneError::TooLarge {
                name: kind.name(),
                max,
                key,
            }
            .into()),
            false => Ok(()),
        }
    }
}

/// Reads the body to its end. Each kind of file comes once at most, and at least one does.
pub async fn receive(
    session: &mut ServerSession,
    boundary: String,
    body: BodyLimits,
    folder: &Folder,
    limits: FileLimits,
) -> Result<Vec<(FileKind, Receiving)>, GatewayError> {
    let unread = Arc::new(AtomicUsize::new(0));
    let stream = Paced {
        inner: Box::pin(pieces(session, body)),
        unread: Arc::clone(&unread),
        has_given: false,
    };
    let mut multipart = Multipart::new(stream, boundary);
    let mut files = Vec::new();
    let mut names = Vec::new();
    let mut count = 0;
    while let Some(mut field) = multipart.next_field().await.map_err(fault)? {
        unread.store(0, Ordering::Relaxed);
        count += 1;
        if count > MAX_PARTS {
            return Err(bad(format!("more than {MAX_PARTS} parts")));
        }
        match field.name().unwrap_or_default() {
            "file_name" => names.push(kind(&text(&mut field, &unread).await?)?),
            name => {
                // Some clients name the part after the file.
                let told = FileKind::named(name);
                if name != "file" && told.is_none() {
                    return Err(bad(format!(
                        "a part `{}`: the parts are `file_name` and `file`",
                        shown(name)
                    )));
                }
                let told = told.or_else(|| field.file_name().and_then(FileKind::named));
                let known = told.or_else(|| names.get(files.len()).copied());
                let file = content(&mut field, &unread, folder, limits, known).await?;
                files.push((told, file));
            }
        }
    }
    named(files, &names, limits)
}

/// Gives each file its kind: the name sent for it, in order, or else what its part says.
fn named(
    files: Vec<(Option<FileKind>, Receiving)>,
    names: &[FileKind],
    limits: FileLimits,
) -> Result<Vec<(FileKind, Receiving)>, GatewayError> {
    if files.is_empty() {
        return Err(bad("no part `file`: send the file's bytes in it".to_owned()));
    }
    let mut known: Vec<(FileKind, Receiving)> = Vec::new();
    for (index, (told, file)) in files.into_iter().enumerate() {
        let kind = names.get(index).copied().or(told);
        let kind = kind.ok_or_else(|| bad(format!("no part `file_name`: {}", expected())))?;
        if known.iter().any(|(other, _)| *other == kind) {
            return Err(bad(format!("{} comes twice", kind.name())));
        }
        limits.check(kind, file.bytes())?;
        known.push((kind, file));
    }
    Ok(known)
}

fn expected() -> String {
    format!(
        "it is `{}` or `{}`",
        FileKind::Config.name(),
        FileKind::Weights.name()
    )
}

fn kind(name: &str) -> Result<FileKind, GatewayError> {
    let kind = FileKind::named(name.trim());
    kind.ok_or_else(|| bad(format!("`file_name` is `{}`, {}", shown(name), expected())))
}

async fn text(field: &mut Field<'_>, unread: &AtomicUsize) -> Result<String, GatewayError> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(fault)? {
        unread.store(0, Ordering::Relaxed);
        if bytes.len() + piece.len() > MAX_NAME_BYTES {
            return Err(bad(format!(
                "`file_name` is longer than {MAX_NAME_BYTES} bytes, {}",
                expected()
            )));
        }
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| bad("`file_name` is not UTF-8".to_owned()))
}

/// Streams a part to disk, in large writes away from the async threads.
async fn content(
    field: &mut Field<'_>,
    unread: &AtomicUsize,
    folder: &Folder,
    limits: FileLimits,
    known: Option<FileKind>,
) -> Result<Receiving, GatewayError> {
    let folder = folder.clone();
    let mut file = blocking(move || folder.receive()).await?;
    // Until its name is known it may be the larger of the two.
    let kind = known.unwrap_or(FileKind::Weights);
    let mut pieces = Vec::new();
    let mut held = 0;
    let mut bytes = 0;
    while let Some(piece) = field.chunk().await.map_err(fault)? {
        unread.store(0, Ordering::Relaxed);
        bytes += piece.len() as u64;
        limits.check(kind, bytes)?;
        held += piece.len();
        pieces.push(piece);
        if held >= WRITE_BYTES {
            file = write(file, std::mem::take(&mut pieces)).await?;
            held = 0;
        }
    }
    write(file, pieces).await
}

async fn write(mut file: Receiving, pieces: Vec<Bytes>) -> Result<Receiving, GatewayError> {
    blocking(move || file.write(&pieces).map(|()| file)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, GatewayError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    Ok(done.map_err(FinetuneError::Disk)?)
}

fn bad(text: String) -> GatewayError {
    GatewayError::new(Kind::BadRequest, text)
}

/// Our own faults come back as they went in.
fn fault(error: multer::Error) -> GatewayError {
    match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<GatewayError>() {
            Ok(own) => *own,
            Err(other) => bad("the request body broke off".to_owned()).private(other),
        },
        other => bad(format!("the body is no multipart/form-data: {other}")),
    }
}

fn pieces<'s>(
    session: &'s mut ServerSession,
    limits: BodyLimits,
) -> impl Stream<Item = Result<Bytes, GatewayError>> + Send + 's {
    stream::unfold((session, 0), move |(session, before)| async move {
        let piece = intake::next_chunk(session, limits).await.transpose()?;
        let bytes = before + piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let piece = match bytes > limits.max_bytes {
            true => Err(bad(format!(
                "the request body is larger than {} bytes, which both files at their largest make (`finetunes.max_bytes`)",
                limits.max_bytes
            ))),
            false => piece,
        };
        Some((piece, (session, bytes)))
    })
}

/// Gives one piece each time it is asked in earnest. The parser reads all there is before it looks at any, which would put
/// a whole upload into memory.
struct Paced<S> {
    inner: Pin<Box<S>>,
    unread: Arc<AtomicUsize>,
    has_given: bool,
}

impl<S: Stream<Item = Result<Bytes, GatewayError>>> Stream for Paced<S> {
    type Item = Result<Bytes, GatewayError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_given {
            self.has_given = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.inner.as_mut().poll_next(cx);
        let Poll::Ready(Some(Ok(piece))) = &next else {
            return next;
        };
        let unread = self.unread.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
        if unread > MAX_FRAMING_BYTES {
            let text = format!("{MAX_FRAMING_BYTES} bytes of the body hold no part");
            return Poll::Ready(Some(Err(bad(text))));
        }
        self.has_given = true;
        next
    }
}

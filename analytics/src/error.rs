//! What can go wrong in this room, by who has to act.

use std::io;
use std::path::{Path, PathBuf};

/// A failure to open, or to answer a question.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The question itself is wrong; the asker can mend it.
    #[error("{0}")]
    Query(String),
    /// A setting is wrong; the operator can mend it.
    #[error("{0}")]
    Config(String),
    /// The store does not answer now; asking again later may help.
    #[error("the log store is not available: {0}")]
    Unavailable(String),
    /// The store holds something this version cannot read.
    #[error("the log store cannot be read: {0}")]
    Unreadable(String),
    /// A file or folder under the data folder.
    #[error("cannot use `{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
}

/// A record that was not kept. The caller's request goes on; the loss is counted in `Stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("the spool is closed: the process is shutting down")]
    Closed,
    #[error("the record has {bytes} bytes without its bodies, more than a spool segment may hold")]
    TooLarge { bytes: u64 },
    #[error("no room for a spool segment: {0}")]
    Disk(io::ErrorKind),
    #[error("the record cannot be encoded")]
    Encode,
}

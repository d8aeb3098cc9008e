//! Folders: making our own, and adopting those of processes that died. A folder's `lock` file is
//! held (flock) for as long as its process lives, so the kernel frees it however the process ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::ledger::Ledger;
use super::segment::{HEADER_BYTES, Segment};
use super::{Folder, Queued};
use crate::error::Error;

/// Makes the folder of this process under `root`.
pub(super) fn make_folder(root: &Path) -> Result<Folder, Error> {
    make_dir(root).map_err(Error::io(root))?;
    let _guard = guard(root).map_err(Error::io(root))?;
    let id = ulid::Ulid::generate().to_string();
    let path = root.join(&id);
    make_dir(&path).map_err(Error::io(&path))?;
    let made = lock_file(&path).and_then(|lock| {
        lock.lock()?;
        Ok((Ledger::open(&path.join("ledger"))?, lock))
    });
    let (ledger, lock) = made.map_err(Error::io(&path))?;
    Ok(Folder {
        id,
        path,
        is_own: true,
        ledger: Mutex::new(ledger),
        _lock: lock,
    })
}

/// Takes over every folder whose process is dead; what is wholly in the store is deleted. The
/// segments come oldest first.
pub(super) fn adopt_orphans(root: &Path, own: &Folder) -> io::Result<Vec<Queued>> {
    let _guard = guard(root)?;
    let mut paths: Vec<PathBuf> = fs::read_dir(root)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && *path != own.path)
        .collect();
    paths.sort(); // ULIDs: by the time the process started
    let mut adopted = Vec::new();
    for path in paths {
        match adopt_folder(&path) {
            Ok(segments) => adopted.extend(segments),
            Err(error) => {
                tracing::error!(%error, folder = %path.display(), "cannot adopt a spool folder");
            }
        }
    }
    Ok(adopted)
}

fn adopt_folder(path: &Path) -> io::Result<Vec<Queued>> {
    let lock = match lock_file(path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()), // just removed
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) if path.join("lock").exists() => {}
        Ok(()) => return Ok(Vec::new()), // removed by its owner while we opened it
        Err(TryLockError::WouldBlock) => return Ok(Vec::new()), // its process lives
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(Vec::new());
    };
    let folder = Arc::new(Folder {
        id: id.to_string(),
        path: path.to_path_buf(),
        is_own: false,
        ledger: Mutex::new(Ledger::open(&path.join("ledger"))?),
        _lock: lock,
    });
    let mut files: Vec<PathBuf> = fs::read_dir(path)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    let mut segments = Vec::new();
    for file in files {
        match Segment::open(&folder, file.clone()) {
            Ok(segment) => segments.extend(resume(segment)?),
            Err(error) => {
                // Kept aside for a human, or for the newer version that wrote it.
                tracing::error!(%error, segment = %file.display(), "cannot read a spool segment; renamed to .unreadable");
                fs::rename(&file, file.with_extension("unreadable"))?;
            }
        }
    }
    remove_folder_if_empty(&folder);
    Ok(segments)
}

/// Puts a segment where its ledger says it had come to; `None` when all of it is in the store.
fn resume(segment: Segment) -> io::Result<Option<Queued>> {
    let ledger = segment
        .folder
        .ledger
        .lock()
        .expect("nobody else holds the ledger yet");
    let progress = ledger.progress(segment.number);
    drop(ledger);
    let taken = (progress.done as usize).max(HEADER_BYTES);
    if taken >= segment.end() {
        fs::remove_file(&segment.path)?;
        return Ok(None);
    }
    let taken_records = segment.records_before(taken);
    let begun_end = progress
        .begun
        .filter(|(start, end)| *start as usize == taken && *end as usize > taken)
        .map(|(_, end)| end as usize);
    Ok(Some(Queued {
        segment: Arc::new(segment),
        taken,
        taken_records,
        acked: taken,
        begun_end,
    }))
}

/// Removes a folder without segments; one that still has some stays for its next adopter.
/// The lock is held meanwhile, and an adopter that waited for it finds no folder.
pub(super) fn remove_folder_if_empty(folder: &Folder) {
    let own_files = ["ledger", "ledger.new", "lock"];
    let is_empty = fs::read_dir(&folder.path).is_ok_and(|entries| {
        entries
            .flatten()
            .all(|entry| own_files.iter().any(|name| entry.file_name() == *name))
    });
    if !is_empty {
        return;
    }
    for name in own_files {
        let _ = fs::remove_file(folder.path.join(name)); // may not be there
    }
    if let Err(error) = fs::remove_dir(&folder.path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %folder.path.display(), "cannot remove an empty spool folder");
    }
}

/// Held while a folder is made or adopted, so that nobody adopts a folder between its making and
/// its locking.
fn guard(root: &Path) -> io::Result<File> {
    let file = open_lock(&root.join(".lock"))?;
    file.lock()?;
    Ok(file)
}

fn lock_file(folder: &Path) -> io::Result<File> {
    open_lock(&folder.join("lock"))
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

//! The folder of adapters' files: each under the SHA-256 of its bytes, in hexadecimal.
//!
//! A file is written beside its place as `<uuid>.part`, made durable, and moved in by rename: what has a hash for a name is
//! whole. Readable by the owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Asset, FileHash};

/// How long a file that no fine-tune has stays after it was written or let go. An upload takes less between its last byte
/// and its row, and a request less between its arrival and its adapter.
const KEPT: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn open(data_dir: &Path) -> io::Result<Folder> {
        let path = data_dir.join("finetunes");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        Ok(Folder { path })
    }

    pub fn place(&self, hash: FileHash) -> PathBuf {
        self.path.join(hex(hash))
    }

    /// A file on its way in.
    pub fn receive(&self) -> io::Result<Receiving> {
        let path = self.path.join(format!("{}.part", Uuid::new_v4()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Receiving {
            folder: self.clone(),
            part: Part(path),
            file,
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    /// The bytes with that hash, checked.
    pub fn read(&self, hash: FileHash) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.place(hash))?.read_to_end(&mut bytes)?;
        if <FileHash>::from(Sha256::digest(&bytes)) != hash {
            let text = format!("`{}` does not hold what its name says", hex(hash));
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(bytes)
    }

    /// Lets the time begin for which a file stays that no fine-tune has. Nothing is lost when that fails: it may only go
    /// sooner.
    pub fn touch(&self, hash: FileHash) {
        let file = OpenOptions::new().append(true).open(self.place(hash));
        if let Err(error) = file.and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::warn!(%error, "a file of a fine-tune could not be marked");
        }
    }

    /// Removes what nobody has had for a while, halves of broken uploads included.
    pub fn sweep(&self, has: impl Fn(FileHash) -> bool) {
        let is_kept = |name: &str| unhex(name).is_some_and(&has);
        let removed = sweep(&self.path, KEPT, &is_kept);
        match removed {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed files of fine-tunes that nobody has"),
            Err(error) => tracing::warn!(%error, "the folder of fine-tunes could not be swept"),
        }
    }
}

fn sweep(folder: &Path, kept: Duration, is_kept: &dyn Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.ends_with(".part") || unhex(&name).is_some();
        let written = entry.metadata()?.modified()?;
        let age = SystemTime::now().duration_since(written);
        let is_old = age.is_ok_and(|age| age >= kept);
        if is_ours && is_old && !is_kept(&name) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A file while it arrives. Dropped before it is kept, it is gone.
pub struct Receiving {
    folder: Folder,
    part: Part,
    file: File,
    hash: Sha256,
    bytes: u64,
}

/// Removes the file it names, unless that was moved.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "half an upload could not be removed");
        }
    }
}

impl Receiving {
    /// Waits for the disk, as everything here.
    pub fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
            self.hash.update(piece);
            self.bytes += piece.len() as u64;
        }
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the bytes are until they are kept.
    pub fn path(&self) -> &Path {
        &self.part.0
    }

    /// Moves the file into its place; from then on it survives a power cut.
    pub fn keep(self) -> io::Result<Asset> {
        let hash = self.hash.finalize().into();
        self.file.sync_all()?;
        // Over an older one of the same bytes too: that one may be about to be swept.
        fs::rename(&self.part.0, self.folder.place(hash))?;
        File::open(&self.folder.path)?.sync_all()?;
        Ok(Asset {
            hash,
            bytes: self.bytes,
        })
    }
}

pub fn hex(hash: FileHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(name: &str) -> Option<FileHash> {
    let mut hash = FileHash::default();
    let is_hex = name
        .bytes()
        .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if name.len() != 64 || !is_hex {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (PathBuf, Folder) {
        let path = std::env::temp_dir().join(format!("files-{}", Uuid::new_v4()));
        let folder = Folder::open(&path).unwrap();
        (path, folder)
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(&folder.path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.collect()
    }

    #[test]
    fn what_has_a_hash_for_a_name_is_whole_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let (path, folder) = folder();
        let mut receiving = folder.receive().unwrap();
        receiving.write(&[Bytes::from_static(b"half")]).unwrap();
        assert!(names(&folder)[0].ends_with(".part"));
        drop(receiving);
        assert!(names(&folder).is_empty(), "a broken upload leaves nothing");
        let mut receiving = folder.receive().unwrap();
        let pieces = [Bytes::from_static(b"a"), Bytes::from_static(b"bc")];
        receiving.write(&pieces).unwrap();
        assert_eq!(fs::read(receiving.path()).unwrap(), b"abc");
        let asset = receiving.keep().unwrap();
        assert_eq!(asset.bytes, 3);
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(names(&folder), [known]);
        assert_eq!(unhex(known), Some(asset.hash));
        let mode = fs::metadata(folder.place(asset.hash))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(folder.read(asset.hash).unwrap(), b"abc");
        fs::write(folder.place(asset.hash), b"abd").unwrap();
        assert!(folder.read(asset.hash).is_err(), "changed behind our back");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn only_old_files_that_nobody_has_are_swept() {
        let (path, folder) = folder();
        let keep = |text: &'static str| {
            let mut receiving = folder.receive().unwrap();
            receiving
                .write(&[Bytes::from_static(text.as_bytes())])
                .unwrap();
            receiving.keep().unwrap().hash
        };
        let (used, unused) = (keep("used"), keep("unused"));
        fs::write(folder.path.join("not-ours"), "x").unwrap();
        folder.sweep(|hash| hash == used);
        assert_eq!(names(&folder).len(), 3, "nothing is an hour old");
        let is_used = |name: &str| unhex(name) == Some(used);
        assert_eq!(sweep(&folder.path, Duration::ZERO, &is_used).unwrap(), 1);
        assert!(folder.read(used).is_ok() && folder.read(unused).is_err());
        assert_eq!(names(&folder).len(), 2);
        fs::remove_dir_all(path).unwrap();
    }
}

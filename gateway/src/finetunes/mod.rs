//! Fine-tunes: LoRA adapters that callers bring, each for one model of the engine.
//!
//! What is known of each stands in the state file ([`rows`]) and is held in memory ([`set`]), so that requests touch no disk.
//! The two files of each lie in `<data.dir>/finetunes/`, each under the SHA-256 of its bytes ([`files`]); both hashes together
//! make the adapter's own ([`adapter_hash`]). Replacing a file makes another adapter under the same id, so nothing that was
//! computed with the old one can be taken for the new one's. Files that no fine-tune has any more stay for an hour, for
//! requests that still wait for them, and go with a later sweep.

pub mod command;
mod error;
mod files;
mod rows;
mod set;
mod source;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use local_inference::AdapterHash;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

pub use error::FinetuneError;
pub use files::{Folder, Receiving, hex};
pub use set::FinetuneSet;
pub use source::Source;

use crate::config::Limits;
use crate::state::{State, now_us};

/// How soon another process's change is seen: half of the second within which it must be.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks for files nobody has any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);

const MAX_NAME_CHARS: usize = 100;
const MAX_DESCRIPTION_CHARS: usize = 2000;
/// Names with this beginning are of public fine-tunes, as on the original.
const PUBLIC_PREFIX: &str = "cf-public-";

/// SHA-256 of a file's bytes.
pub type FileHash = [u8; 32];

/// Which of an adapter's two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Config,
    Weights,
}

impl FileKind {
    pub const ALL: [FileKind; 2] = [FileKind::Config, FileKind::Weights];

    /// The name clients must give it.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Config => "adapter_config.json",
            FileKind::Weights => "adapter_model.safetensors",
        }
    }

    pub fn named(name: &str) -> Option<FileKind> {
        FileKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A file of a fine-tune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    pub hash: FileHash,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finetune {
    /// A UUID, the same for ever.
    pub id: Arc<str>,
    pub account: Arc<str>,
    /// No other of the account has it.
    pub name: Arc<str>,
    /// The base, by the engine's own name for it.
    pub model: Arc<str>,
    pub description: Arc<str>,
    /// Other accounts may use it too.
    pub is_public: bool,
    pub created_at_us: i64,
    pub modified_at_us: i64,
    pub config: Option<Asset>,
    pub weights: Option<Asset>,
    /// The highest of its targets' ranks, known once both files were checked.
    pub rank: Option<u32>,
}

impl Finetune {
    pub fn asset(&self, kind: FileKind) -> Option<Asset> {
        match kind {
            FileKind::Config => self.config,
            FileKind::Weights => self.weights,
        }
    }

    /// The files it has no asset for.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = FileKind::ALL.into_iter();
        let missing = missing.filter(|kind| self.asset(*kind).is_none());
        missing.map(FileKind::name).collect()
    }

    /// What it answers with now; `None` while a file is missing.
    pub fn adapter(&self) -> Option<AdapterHash> {
        Some(adapter_hash(self.config?.hash, self.weights?.hash))
    }

    pub fn is_called(&self, id_or_name: &str) -> bool {
        *self.id == *id_or_name || *self.name == *id_or_name
    }
}

/// One hash for both files, in this order.
pub fn adapter_hash(config: FileHash, weights: FileHash) -> AdapterHash {
    let mut hash = Sha256::new();
    hash.update(config);
    hash.update(weights);
    AdapterHash(hash.finalize().into())
}

/// A fine-tune to be made.
#[derive(Debug, Clone)]
pub struct NewFinetune {
    pub account: Arc<str>,
    pub name: String,
    pub model: String,
    pub description: String,
    pub is_public: bool,
}

/// All fine-tunes of this installation. Methods that write wait for the disk: call them away from the async threads.
pub struct Finetunes {
    state: Arc<State>,
    folder: Folder,
    current: ArcSwap<FinetuneSet>,
    /// The state file's version the current set was read at.
    version: AtomicI64,
    /// Held while files are checked together and taken on: uploads of both at once must see each other, and checking holds
    /// both in memory. Others wait.
    pub taking_on: tokio::sync::Mutex<()>,
}

impl Finetunes {
    pub fn open(state: Arc<State>, folder: Folder) -> Result<Finetunes, FinetuneError> {
        let version = state.data_version()?;
        let set = FinetuneSet::new(state.finetunes()?, &FinetuneSet::default());
        folder.sweep(|hash| set.has_file(hash));
        Ok(Finetunes {
            state,
            folder,
            current: ArcSwap::from_pointee(set),
            version: AtomicI64::new(version),
            taking_on: tokio::sync::Mutex::new(()),
        })
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// As they are now.
    pub fn load(&self) -> Arc<FinetuneSet> {
        self.current.load_full()
    }

    pub fn create(
        &self,
        new: &NewFinetune,
        limits: &Limits,
    ) -> Result<Arc<Finetune>, FinetuneError> {
        check_name(&new.name, new.is_public)?;
        let description = new.description.chars().count();
        if description > MAX_DESCRIPTION_CHARS {
            return Err(FinetuneError::Invalid(format!(
                "`description` has {description} characters, at most {MAX_DESCRIPTION_CHARS} are kept"
            )));
        }
        let now = now_us();
        let finetune = Finetune {
            id: Uuid::new_v4().to_string().into(),
            account: Arc::clone(&new.account),
            name: new.name.as_str().into(),
            model: new.model.as_str().into(),
            description: new.description.as_str().into(),
            is_public: new.is_public,
            created_at_us: now,
            modified_at_us: now,
            config: None,
            weights: None,
            rank: None,
        };
        self.state
            .insert_finetune(&finetune, limits.max_per_account)?;
        self.reload()?;
        Ok(Arc::new(finetune))
    }

    /// Gives `was` other files. Fails when somebody else changed it since it was read.
    pub fn attach(&self, was: &Finetune, now: &Finetune) -> Result<Arc<Finetune>, FinetuneError> {
        let now = Finetune {
            modified_at_us: now_us().max(was.modified_at_us + 1),
            ..now.clone()
        };
        self.state.replace_assets(was, &now)?;
        self.let_go(was, Some(&now));
        self.reload()?;
        Ok(Arc::new(now))
    }

    pub fn delete(&self, finetune: &Finetune) -> Result<(), FinetuneError> {
        if !self.state.delete_finetune(&finetune.id)? {
            return Err(FinetuneError::NotFound(finetune.id.to_string()));
        }
        self.let_go(finetune, None);
        self.reload()
    }

    /// Lets the hour begin for files that `now` no longer has.
    fn let_go(&self, was: &Finetune, now: Option<&Finetune>) {
        for kind in FileKind::ALL {
            let (old, new) = (was.asset(kind), now.and_then(|now| now.asset(kind)));
            if let Some(old) = old.filter(|old| Some(*old) != new) {
                self.folder.touch(old.hash);
            }
        }
    }

    /// Reads them again if the state changed.
    pub fn refresh(&self) -> Result<(), FinetuneError> {
        // The version first: a write in between is then seen by the next look.
        let version = self.state.data_version()?;
        if self.version.load(Ordering::Acquire) != version {
            self.reload()?;
            self.version.store(version, Ordering::Release);
        }
        Ok(())
    }

    fn reload(&self) -> Result<(), FinetuneError> {
        // Until the newest list is in: two writers may read in one order and store in the other.
        loop {
            let before = self.current.load_full();
            let set = Arc::new(FinetuneSet::new(self.state.finetunes()?, &before));
            let previous = self.current.compare_and_swap(&before, set);
            if Arc::ptr_eq(&previous, &before) {
                return Ok(());
            }
        }
    }

    /// Removes files nobody has had for an hour.
    fn sweep(&self) {
        let set = self.load();
        self.folder.sweep(|hash| set.has_file(hash));
    }

    /// Keeps up with other processes and sweeps, until told to stop.
    pub async fn watch(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            let is_due = swept.elapsed() >= SWEEP_INTERVAL;
            if is_due {
                swept = Instant::now();
            }
            let own = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || {
                let seen = own.refresh();
                if is_due {
                    own.sweep();
                }
                seen
            });
            if let Ok(Err(error)) = look.await {
                tracing::warn!(%error, "the fine-tunes could not be read again");
            }
        }
    }
}

fn check_name(name: &str, is_public: bool) -> Result<(), FinetuneError> {
    let says = |text: String| Err(FinetuneError::Invalid(text));
    let length = name.chars().count();
    if length == 0 || length > MAX_NAME_CHARS {
        return says(format!(
            "`name` has {length} characters, 1 to {MAX_NAME_CHARS} are possible"
        ));
    }
    if name.contains('/') || name.chars().any(char::is_control) || name.trim() != name {
        return says(format!(
            "`name` may hold no `/`, no control character and no space at its ends: `{}`",
            crate::identify::shown(name)
        ));
    }
    if name == "public" || Uuid::parse_str(name).is_ok() {
        return says(format!(
            "`name` may be neither `public` nor of an id's form, which stand in its place in paths: `{name}`"
        ));
    }
    if name.starts_with(PUBLIC_PREFIX) && !is_public {
        return says(format!(
            "names that begin with `{PUBLIC_PREFIX}` are of public fine-tunes: take another, or set `public`"
        ));
    }
    Ok(())
}

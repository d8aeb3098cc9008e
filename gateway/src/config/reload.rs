//! A running process's configuration, and how it changes: on SIGHUP and when a file changes.
//!
//! A bad file keeps the old set; the reason can be read until a good one came. Settings that are
//! bound at start (listeners, data directory, memory sizes, Redis, engine) are named in a warning
//! when they change, and take effect with the next start or upgrade.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{Config, ConfigError};

/// How often files are looked at. A look is one `stat` per watched file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Told of each new set, after it became the current one.
type Hook = Box<dyn Fn(&Config) + Send>;

/// The current configuration behind a pointer that a request reads once.
pub struct LiveConfig {
    current: ArcSwap<Config>,
    last_error: ArcSwapOption<String>,
    path: Option<PathBuf>,
    hooks: Mutex<Vec<Hook>>,
    /// What the watched files looked like when they were last read. Also serialises reloads.
    seen: Mutex<Seen>,
}

/// Cheap look first, content second: editors touch files without changing them.
#[derive(Default, PartialEq)]
struct Seen {
    stats: Vec<Option<(SystemTime, u64)>>,
    digest: [u8; 32],
}

impl LiveConfig {
    /// Loads the file and remembers its path for reloads.
    pub fn open(path: Option<&Path>) -> Result<LiveConfig, ConfigError> {
        let config = Config::load(path)?;
        Ok(LiveConfig::start(config, path.map(Path::to_owned)))
    }

    /// A configuration that was made by a program: there is no file to read again.
    pub fn fixed(config: Config) -> LiveConfig {
        LiveConfig::start(config, None)
    }

    fn start(config: Config, path: Option<PathBuf>) -> LiveConfig {
        let seen = Seen {
            stats: stats(&config.watched),
            digest: digest(&config.watched),
        };
        LiveConfig {
            current: ArcSwap::from_pointee(config),
            last_error: ArcSwapOption::empty(),
            path,
            hooks: Mutex::default(),
            seen: Mutex::new(seen),
        }
    }

    pub fn load(&self) -> Arc<Config> {
        self.current.load_full()
    }

    /// Calls `hook` after each reload that was taken, on the thread that reloads.
    pub fn on_reload(&self, hook: impl Fn(&Config) + Send + 'static) {
        self.hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(hook));
    }

    /// Why the newest file was not taken; `None` once a good one was.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.load_full().map(|text| (*text).clone())
    }

    /// Reads the file again, whether or not it changed (SIGHUP). Returns whether it was taken.
    pub fn reload_now(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload(&mut seen)
    }

    /// Reloads when a watched file's content changed. Returns whether a new set was taken.
    pub fn reload_if_changed(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = &self.current.load().watched;
        let stats = stats(watched);
        if stats == seen.stats {
            return false;
        }
        seen.stats = stats;
        if digest(watched) == seen.digest {
            return false;
        }
        self.reload(&mut seen)
    }

    /// Looks every second until `stop` is told (or dropped).
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let live = self.clone();
                    // File reads may block (a network mount), so they leave the async threads.
                    let _ = tokio::task::spawn_blocking(move || live.reload_if_changed()).await;
                }
                changed = stop.changed() => {
                    if changed.is_err() || *stop.borrow() {
                        return;
                    }
                }
            }
        }
    }

    fn reload(&self, seen: &mut Seen) -> bool {
        let Some(path) = &self.path else { return false };
        // Looked at before it is read: a write in between is then found by the next look.
        let old = self.current.load_full();
        *seen = Seen {
            stats: stats(&old.watched),
            digest: digest(&old.watched),
        };
        match Config::load(Some(path)) {
            Ok(new) => {
                if new.watched != old.watched {
                    *seen = Seen {
                        stats: stats(&new.watched),
                        digest: digest(&new.watched),
                    };
                }
                let restart = needs_restart(&old, &new);
                if !restart.is_empty() {
                    tracing::warn!(
                        sections = restart.join(","),
                        "changed settings need a restart"
                    );
                }
                let new = Arc::new(new);
                self.current.store(new.clone());
                self.last_error.store(None);
                for hook in self
                    .hooks
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                {
                    hook(&new);
                }
                tracing::info!(path = %path.display(), "configuration reloaded");
                true
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "configuration not taken, the old one stays");
                self.last_error.store(Some(Arc::new(error.to_string())));
                false
            }
        }
    }
}

/// Sections bound at start that differ.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let pairs = [
        ("server", old.server == new.server),
        ("admin", old.admin == new.admin),
        ("data", old.data == new.data),
        ("log", old.log == new.log),
        (
            "records",
            old.records == new.records && old.analytics == new.analytics,
        ),
        ("cache", old.cache == new.cache),
        ("flood", old.flood == new.flood),
        ("catalog", old.catalog_overrides == new.catalog_overrides),
        ("redis", old.redis == new.redis),
        ("engine", old.engine == new.engine),
    ];
    pairs
        .into_iter()
        .filter(|(_, is_same)| !is_same)
        .map(|(section, _)| section)
        .collect()
}

fn stats(paths: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stat = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.iter().map(stat).collect()
}

fn digest(paths: &[PathBuf]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for path in paths {
        match std::fs::read(path) {
            Ok(content) => hash.update(Sha256::digest(content)),
            Err(_) => hash.update([0]),
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::Environment;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let path = std::env::temp_dir().join(format!("reload-{}", ulid::Ulid::generate()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_changed_file_is_taken_and_a_bad_one_is_not() {
        let folder = Folder::new();
        let path = folder.write("config.toml", "[[gateways]]\nid = 'a'");
        let live = LiveConfig::open(Some(&path)).unwrap();
        let before = live.load();
        let told = Arc::new(AtomicUsize::new(0));
        let counter = told.clone();
        live.on_reload(move |_| _ = counter.fetch_add(1, Ordering::Relaxed));
        assert!(!live.reload_if_changed(), "nothing changed");

        folder.write("config.toml", "[[gateways]]\nid = 'bb'");
        assert!(live.reload_if_changed());
        assert!(live.load().gateway("default", "bb").is_ok());
        assert!(
            before.gateway("default", "a").is_ok(),
            "a request keeps the set it began with"
        );

        folder.write("config.toml", "[server]\nlisten = 5");
        assert!(!live.reload_if_changed());
        assert!(live.load().gateway("default", "bb").is_ok());
        assert!(live.last_error().unwrap().contains("server.listen"));

        folder.write("config.toml", "[[gateways]]\nid = 'ccc'");
        assert!(live.reload_if_changed());
        assert_eq!(live.last_error(), None);
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_rotated_secret_file_is_a_change() {
        let folder = Folder::new();
        let key = folder.write("key", "sk-old");
        let text = format!(
            "[providers.openai]\napi_key = {{ file = '{}' }}",
            key.display()
        );
        let path = folder.write("config.toml", &text);
        let live = LiveConfig::open(Some(&path)).unwrap();
        let key_of = |live: &LiveConfig| {
            live.load().providers["openai"]
                .api_key
                .as_ref()
                .unwrap()
                .expose()
                .to_owned()
        };
        assert_eq!(key_of(&live), "sk-old");
        folder.write("key", "sk-newer");
        assert!(live.reload_if_changed());
        assert_eq!(key_of(&live), "sk-newer");
    }

    #[test]
    fn says_which_sections_wait_for_a_restart() {
        let resolve = |text: &str| {
            crate::config::resolve::resolve(text, "test", &Environment::default()).unwrap()
        };
        let old = resolve("");
        let new = resolve("[server]\nlisten = '127.0.0.1:0'\n[[gateways]]\nid = 'a'");
        assert_eq!(needs_restart(&old, &new), ["server"]);
    }
}

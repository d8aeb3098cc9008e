//! The token set a running process uses, kept in step with the state file.
//!
//! A request reads a pointer, never the file. Another process (the command line) may add or revoke a
//! token at any time: the file is asked twice a second whether somebody wrote to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::TokenSet;
use crate::state::{State, StateError};

/// Half of the second within which a change must be seen.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

pub struct LiveTokens {
    state: Arc<State>,
    current: ArcSwap<TokenSet>,
    /// The file's version the current set was read at.
    version: AtomicI64,
}

impl LiveTokens {
    pub fn open(state: Arc<State>) -> Result<LiveTokens, StateError> {
        let version = state.data_version()?;
        let set = TokenSet::new(state.tokens()?);
        Ok(LiveTokens {
            state,
            current: ArcSwap::from_pointee(set),
            version: AtomicI64::new(version),
        })
    }

    pub fn load(&self) -> Arc<TokenSet> {
        self.current.load_full()
    }

    /// Reads the tokens again if the state changed. Returns whether it did.
    pub fn refresh(&self) -> Result<bool, StateError> {
        // The version first: a write in between is then seen by the next look.
        let version = self.state.data_version()?;
        if self.version.swap(version, Ordering::AcqRel) == version {
            return Ok(false);
        }
        match self.state.tokens() {
            Ok(tokens) => {
                self.current.store(Arc::new(TokenSet::new(tokens)));
                Ok(true)
            }
            Err(error) => {
                // Not seen after all: look again next time.
                self.version.store(version - 1, Ordering::Release);
                Err(error)
            }
        }
    }

    /// Looks twice a second until `stop` is told (or dropped). A state file that cannot be read
    /// leaves the last known set in place.
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_failing = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let tokens = self.clone();
            let looked = tokio::task::spawn_blocking(move || tokens.refresh()).await;
            let Ok(result) = looked else { continue };
            match result {
                Ok(_) => was_failing = false,
                Err(error) if !was_failing => {
                    was_failing = true;
                    tracing::error!(%error, "tokens cannot be read, the last known set stays");
                }
                Err(_) => {}
            }
        }
    }
}

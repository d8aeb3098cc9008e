//! The connection to Redis, which several instances share for cached replies and exact limits.
//!
//! Redis is a helper: a request never waits for a connection, only for a command, and that for
//! `command_timeout` at most. A command that fails at the connection ends it: until a new one
//! answers, callers are told at once that there is none, and do without. What "without" means is
//! theirs to say (`cache::shared`, `limit::shared`).

mod link;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::{Client, Cmd, ErrorKind, FromRedisValue, Script, ScriptInvocation};

use crate::config;
use link::Link;

/// Redis could not be asked. The cause was counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is not available")]
pub struct Unavailable;

#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The text of the library's error may hold the URL, and so a password: it stays out.
    #[error("redis.url is not an address of a Redis server")]
    Url,
}

pub struct Redis {
    link: Link,
    key_prefix: String,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    commands: AtomicU64,
    errors: AtomicU64,
    skipped: AtomicU64,
}

/// Counts since start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisStats {
    pub is_up: bool,
    /// Commands that were answered.
    pub commands: u64,
    /// Commands that failed or were not answered in time.
    pub errors: u64,
    /// Commands not even sent, because no connection stood.
    pub skipped: u64,
}

impl Redis {
    /// Tries once to connect, so that a healthy server is used from the first request on, and keeps
    /// trying in the background if that fails. Needs a Tokio runtime that outlives the handle.
    pub async fn open(config: &config::Redis) -> Result<Arc<Redis>, RedisError> {
        let client = Client::open(config.url.expose()).map_err(|_| RedisError::Url)?;
        let link = Link::open(client, config.connect_timeout, config.command_timeout).await;
        Ok(Arc::new(Redis {
            link,
            key_prefix: config.key_prefix.clone(),
            counters: Counters::default(),
        }))
    }

    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    pub fn stats(&self) -> RedisStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RedisStats {
            is_up: self.is_up(),
            commands: read(&self.counters.commands),
            errors: read(&self.counters.errors),
            skipped: read(&self.counters.skipped),
        }
    }

    /// `<prefix>:<room>:<name>`
    pub(crate) fn key(&self, room: &str, name: &str) -> String {
        format!("{}:{room}:{name}", self.key_prefix)
    }

    pub(crate) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let Some(mut connection) = self.link.connection() else {
            return self.skip();
        };
        self.judge(command.query_async(&mut connection).await)
    }

    /// Runs a script by its hash, loading it when the server does not know it (a new server).
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        fill: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<T, Unavailable> {
        let Some(mut connection) = self.link.connection() else {
            return self.skip();
        };
        let mut invocation = script.prepare_invoke();
        fill(&mut invocation);
        self.judge(invocation.invoke_async(&mut connection).await)
    }

    fn skip<T>(&self) -> Result<T, Unavailable> {
        self.counters.skipped.fetch_add(1, Ordering::Relaxed);
        Err(Unavailable)
    }

    fn judge<T>(&self, result: ::redis::RedisResult<T>) -> Result<T, Unavailable> {
        match result {
            Ok(value) => {
                self.counters.commands.fetch_add(1, Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                // An answer that says no (out of memory, read-only) leaves the connection whole.
                let is_answer = matches!(
                    error.kind(),
                    ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType
                );
                if is_answer {
                    tracing::debug!(%error, "Redis refused a command");
                } else {
                    self.link.broke(&error);
                }
                Err(Unavailable)
            }
        }
    }
}

//! Configuration: from what people write to what the program uses.
//!
//! [`file`] is the written form, [`resolve`] turns it into [`Config`] (references checked, sizes and
//! durations typed, secrets read), [`reload`] keeps a running process up to date. A [`Config`] never
//! changes; a reload builds a new one, and a request keeps the one it began with.

pub mod engine;
#[cfg(test)]
mod example;
pub mod file;
pub mod finetunes;
pub mod gateway;
mod print;
pub mod reload;
mod resolve;
pub mod secret;
mod written;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use engine::{CustomModel, Engine, EngineBackend, KvDtype, RequestsPerMinute};
pub use file::{Admin, Data, File, Log, Tls};
pub use finetunes::Limits;
pub use gateway::{Backoff, DEFAULT_ACCOUNT, DEFAULT_GATEWAY, Gateway, RateLimit, Technique};
pub use print::{Setting, Source};
pub use reload::LiveConfig;
pub use secret::{Environment, Secret};

/// Everything the program was told, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub data: Data,
    pub log: Log,
    pub timeouts: Timeouts,
    pub cache: Cache,
    pub flood: Option<Flood>,
    pub records: Records,
    /// What the records room is opened with.
    pub analytics: analytics::Config,
    pub redis: Option<Redis>,
    /// `None` when switched off.
    pub engine: Option<Engine>,
    /// What fine-tunes may be at most.
    pub finetunes: Limits,
    /// Text of the price table's overrides, when a file was named.
    pub catalog_overrides: Option<String>,
    /// By the provider's own slug (aliases are resolved) or `custom-<name>`.
    pub providers: HashMap<String, Arc<ProviderConfig>>,
    accounts: HashMap<String, HashMap<String, Arc<Gateway>>>,
    settings: Vec<Setting>,
    /// Files whose change means a reload: the file itself, secrets, the price table.
    watched: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub listen: String,
    /// `None` = one per core.
    pub threads: Option<usize>,
    pub max_body_bytes: usize,
    pub max_buffered_body_bytes: usize,
    pub header_read_timeout: Duration,
    pub body_read_timeout: Duration,
    pub max_in_flight: usize,
    pub cloudflare_statuses: bool,
    pub http2: bool,
    pub tls: Option<Tls>,
    pub upgrade_socket: PathBuf,
    pub drain_timeout: Duration,
}

/// How long to wait for a provider, after the gateway's overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub response_head: Duration,
    pub first_token: Option<Duration>,
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    pub max_bytes: u64,
    pub max_entry_bytes: usize,
    pub max_request_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    pub requests_per_second: u32,
    pub burst: u32,
    pub max_clients: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    pub capture_bodies: bool,
    pub max_body_bytes: usize,
    pub body_memory_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    pub url: Secret,
    pub key_prefix: String,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
}

/// What the config says about one provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderConfig {
    /// `http(s)://host[:port][/base]`, checked, without a trailing slash.
    pub base_url: Option<String>,
    pub api_key: Option<Secret>,
    /// Where a service account's key is exchanged.
    pub token_url: Option<String>,
    /// Names are lower case and, like the values, valid in HTTP.
    pub headers: Vec<(String, Secret)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Why no gateway was found for an account and an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GatewayLookup {
    #[error("the account's name is not of letters, digits, `_` and `-`, at most 64")]
    BadAccount,
    #[error("nothing names this account")]
    UnknownAccount,
    #[error("this account has no such gateway")]
    UnknownGateway,
}

/// Why a configuration was not taken. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{origin}{}: {message}", line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Syntax {
        origin: String,
        line: Option<usize>,
        message: String,
    },
    #[error("{origin}{}: `{path}`: {message}", line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Key {
        origin: String,
        line: Option<usize>,
        path: String,
        message: String,
    },
    #[error("environment variable `{name}`: {message}")]
    Override { name: String, message: String },
    #[error("{origin}: {}", problems.join("; "))]
    Invalid {
        origin: String,
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads the file (none: only defaults) and the environment's overrides.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        Config::load_with(path, &Environment::process())
    }

    pub fn load_with(
        path: Option<&Path>,
        environment: &Environment,
    ) -> Result<Config, ConfigError> {
        let Some(path) = path else {
            return resolve::resolve("", "defaults", environment);
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = resolve::resolve(&text, &path.display().to_string(), environment)?;
        config.watched.insert(0, path.to_owned());
        Ok(config)
    }

    /// A configuration given as text by a program. Secrets may be in the environment; its overrides
    /// (`AI_GATEWAY_..`) do not apply.
    pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
        resolve::resolve(text, origin, &Environment::process().without_overrides())
    }

    /// The gateway of that account and id. An account exists when the file names it; `default`
    /// always does. For accounts that tokens or the state name use [`Config::gateway_if_account`].
    pub fn gateway(&self, account: &str, id: &str) -> Result<Arc<Gateway>, GatewayLookup> {
        self.gateway_if_account(account, id, |_| false)
    }

    /// The same, where `is_known` says whether something outside the file names the account.
    pub fn gateway_if_account(
        &self,
        account: &str,
        id: &str,
        is_known: impl FnOnce(&str) -> bool,
    ) -> Result<Arc<Gateway>, GatewayLookup> {
        if let Some(gateways) = self.accounts.get(account) {
            return gateways
                .get(id)
                .cloned()
                .ok_or(GatewayLookup::UnknownGateway);
        }
        if !gateway::is_account_name(account) {
            return Err(GatewayLookup::BadAccount);
        }
        if !is_known(account) {
            return Err(GatewayLookup::UnknownAccount);
        }
        if id != DEFAULT_GATEWAY {
            return Err(GatewayLookup::UnknownGateway);
        }
        Ok(Arc::new(Gateway::unconfigured(account, id, &self.timeouts)))
    }

    /// Every gateway the file names, and each account's `default`.
    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.accounts.values().flat_map(HashMap::values)
    }

    /// Each setting with its value and where that came from, in the file's order.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The effective configuration as a TOML file with the source of each value; plain secrets are
    /// hidden, references are shown.
    pub fn print_config(&self) -> String {
        print::render(&self.settings)
    }
}

impl Server {
    /// Whether only this machine can reach the listener. Names other than `localhost` count as
    /// reachable from outside: what they resolve to may change.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.listen)
    }
}

/// Whether an address `host:port` is of this machine only.
pub fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

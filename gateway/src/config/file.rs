//! The written form of the configuration: what people put into the file.
//!
//! Every key has a default, standing once in `Default`; an empty file works. Unknown keys are
//! refused with their path. `resolve.rs` turns this into [`super::Config`]; no code after start-up
//! sees these types. `config.example.toml` shows every key, and a test holds the two together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::engine::EngineEntry;
use super::finetunes::FinetunesEntry;
use super::gateway::GatewayEntry;
use super::secret::SecretRef;
use super::{LogFormat, LogLevel};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The whole file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub server: Server,
    pub admin: Admin,
    pub data: Data,
    pub log: Log,
    pub timeouts: Timeouts,
    pub cache: Cache,
    pub flood: Flood,
    pub records: Records,
    pub clickhouse: ClickHouse,
    pub redis: Redis,
    pub engine: EngineEntry,
    pub finetunes: FinetunesEntry,
    pub catalog: Catalog,
    pub providers: BTreeMap<String, Provider>,
    pub gateways: Vec<GatewayEntry>,
}

/// The listener clients talk to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port; port 0 picks a free one.
    pub listen: String,
    /// Worker threads of the proxy; 0 = one per core.
    pub threads: usize,
    /// Largest request body taken, bytes; a larger one is answered 413.
    pub max_body_bytes: u64,
    /// Largest body held in memory for retries and the cache, bytes; a larger one to a provider is
    /// streamed through and gets one try. Universal requests and the local model's are always held.
    pub max_buffered_body_bytes: u64,
    /// Time for a request's head to arrive, milliseconds.
    pub header_read_timeout_ms: u64,
    /// Longest wait between two pieces of a request body, milliseconds.
    pub body_read_timeout_ms: u64,
    /// Requests in flight at once, whole process; past it 503.
    pub max_in_flight: usize,
    /// Answer connection failures and timeouts with the original's 400 instead of 502 and 504.
    pub cloudflare_statuses: bool,
    /// Offer HTTP/2 over TLS by ALPN.
    pub http2: bool,
    /// Certificate and key; unset = clear text.
    pub tls: Option<Tls>,
    /// Socket over which a new process takes the listeners from the old; unset = in `data.dir`.
    pub upgrade_socket: Option<PathBuf>,
    /// Longest time for requests in flight to end after SIGTERM, milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: "127.0.0.1:8787".to_owned(),
            threads: 0,
            max_body_bytes: 100 * MIB,
            max_buffered_body_bytes: 32 * MIB,
            header_read_timeout_ms: 30_000,
            body_read_timeout_ms: 60_000,
            max_in_flight: 10_000,
            cloudflare_statuses: false,
            http2: true,
            tls: None,
            upgrade_socket: None,
            drain_timeout_ms: 60_000,
        }
    }
}

/// PEM files. Read at start; a renewed certificate needs a restart or an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
}

/// The operator's listener: health, readiness, metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port; port 0 picks a free one. Keep it off public networks.
    pub listen: String,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin {
            listen: "127.0.0.1:8788".to_owned(),
        }
    }
}

/// Where the process keeps its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// State, logs, spool and models; made at start, readable by its owner only.
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Data {
        Data {
            dir: PathBuf::from("./data"),
        }
    }
}

/// Diagnostics on standard error (the log of requests is `records`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people, `json` for collectors.
    pub format: LogFormat,
    /// The least severe event that is written.
    pub level: LogLevel,
}

/// How long to wait for a provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Until the connection (TLS included) stands, milliseconds.
    pub connect_ms: u64,
    /// From the last byte sent to the reply's head, milliseconds.
    pub response_head_ms: u64,
    /// From the last byte sent to the first content of a stream, milliseconds; 0 = no such limit.
    pub first_token_ms: u64,
    /// Between two pieces of a reply, milliseconds.
    pub idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect_ms: 5_000,
            response_head_ms: 600_000,
            first_token_ms: 0,
            idle_ms: 300_000,
        }
    }
}

/// Stored replies. Nothing is cached until a gateway or a request asks for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Memory for stored replies, bytes; past it the least used leave.
    pub max_bytes: u64,
    /// Largest reply stored, bytes; a larger one is passed on and not stored.
    pub max_entry_bytes: u64,
    /// Largest request whose reply may be stored, bytes.
    pub max_request_bytes: u64,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            max_bytes: 256 * MIB,
            max_entry_bytes: 10 * MIB,
            max_request_bytes: 25 * MIB,
        }
    }
}

/// A guard against one address sending far too much. Off by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flood {
    pub enabled: bool,
    /// Requests a second one client address may send in the long run.
    pub requests_per_second: u32,
    /// Requests it may send at once before that rate holds.
    pub burst: u32,
    /// Addresses remembered; past it the longest unseen are forgotten.
    pub max_clients: u64,
}

impl Default for Flood {
    fn default() -> Flood {
        Flood {
            enabled: false,
            requests_per_second: 50,
            burst: 100,
            max_clients: 100_000,
        }
    }
}

/// What is kept of requests and replies, for how long, and on how much disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Records {
    /// Keep request and response bodies beside the row (a gateway or a request may say no).
    pub capture_bodies: bool,
    /// Most of one body that is kept, bytes; the rest is cut and the row says so.
    pub max_body_bytes: u64,
    /// Memory for bodies being captured, whole process, bytes; past it they are cut and marked.
    pub body_memory_bytes: u64,
    /// Days a row is kept; 0 = for ever.
    pub retention_days: u32,
    /// Days a stored body is kept; 0 = for ever.
    pub body_retention_days: u32,
    /// Disk for rows not yet in the store, bytes; past it the oldest are dropped and counted.
    pub spool_max_bytes: u64,
    /// Size of one spool file, bytes, allocated ahead.
    pub segment_bytes: u64,
    /// Rows in one insert at most.
    pub max_block_rows: u32,
    /// Bytes in one insert at most (a larger single row goes alone).
    pub max_block_bytes: u64,
    /// How long a row may wait for others before it is inserted, milliseconds.
    pub max_block_age_ms: u64,
}

/// What belongs to the records room has its default there.
impl Default for Records {
    fn default() -> Records {
        let room = analytics::Config::default();
        Records {
            capture_bodies: true,
            max_body_bytes: 10_000_000,
            body_memory_bytes: 64 * MIB,
            retention_days: room.retention_days,
            body_retention_days: room.body_retention_days,
            spool_max_bytes: room.spool_max_bytes,
            segment_bytes: room.segment_bytes,
            max_block_rows: room.max_block_rows,
            max_block_bytes: room.max_block_bytes,
            max_block_age_ms: room.max_block_age_ms,
        }
    }
}

/// A ClickHouse server for the rows. While `url` is unset they go to SQLite in `data.dir`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickHouse {
    /// Its HTTP interface, without credentials.
    pub url: Option<String>,
    /// Made when it does not exist.
    pub database: String,
    /// Empty = the server's default user.
    pub user: String,
    pub password: Option<SecretRef>,
    /// How long one insert may take before it is tried again, milliseconds.
    pub insert_timeout_ms: u64,
    /// How long a question may take before it is given up, milliseconds.
    pub query_timeout_ms: u64,
}

impl Default for ClickHouse {
    fn default() -> ClickHouse {
        let room = analytics::ClickHouseConfig::default();
        ClickHouse {
            url: None,
            database: room.database,
            user: room.user,
            password: None,
            insert_timeout_ms: room.insert_timeout_ms,
            query_timeout_ms: room.query_timeout_ms,
        }
    }
}

/// A cache level and exact limits shared by several instances. Off while `url` is unset.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://` or `rediss://`; may hold a password, so it may be a secret's place.
    pub url: Option<SecretRef>,
    /// Begins every key, so that several installations can share one server.
    pub key_prefix: String,
    /// Until a connection stands, milliseconds; meanwhile this instance counts for itself.
    pub connect_timeout_ms: u64,
    /// For one command, milliseconds; past it this request goes on without Redis.
    pub command_timeout_ms: u64,
}

impl Default for Redis {
    fn default() -> Redis {
        Redis {
            url: None,
            key_prefix: "ai-gateway".to_owned(),
            connect_timeout_ms: 1_000,
            command_timeout_ms: 250,
        }
    }
}

/// Prices of models.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catalog {
    /// A file of rows that replace or extend the built-in price table.
    pub file: Option<PathBuf>,
}

/// `[providers.<slug>]`: what differs from the built-in table. `custom-<name>` needs `base_url`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    /// Replaces scheme, host and base path. `http://` and private addresses are allowed here.
    pub base_url: Option<String>,
    /// Sent when a request brings no credential of its own. For google-vertex-ai also a service
    /// account's key file, in base64.
    pub api_key: Option<SecretRef>,
    /// Where a service account's key is exchanged, google-vertex-ai only; unset = Google's own.
    pub token_url: Option<String>,
    /// Set on every request to this provider; a value may be a secret's place.
    pub headers: BTreeMap<String, SecretRef>,
}

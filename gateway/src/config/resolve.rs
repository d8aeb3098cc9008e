//! From the written form to the resolved form: checked, typed, secrets read.
//!
//! All problems of a file are told at once. Errors name the key's path and the value, except that
//! values of secrets stay out.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::engine::EngineEntry;
use super::file::{self, File};
use super::finetunes::FinetunesEntry;
use super::gateway::{DEFAULT_ACCOUNT, DEFAULT_GATEWAY, Gateway};
use super::secret::{Environment, Secret, SecretRef};
use super::written::{self, Written};
use super::{
    Cache, Config, ConfigError, Engine, Flood, Limits, ProviderConfig, Records, Redis, Server,
    Timeouts, print,
};

/// Most a limit counted in bytes may be: what an address space can hold.
const MAX_BYTES: u64 = isize::MAX as u64;

pub(super) fn resolve(
    text: &str,
    origin: &str,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let Written {
        file,
        table,
        overridden,
    } = written::read(text, origin, environment)?;
    let settings = print::settings(&file, &table, &overridden);
    let mut check = Check {
        environment,
        problems: Vec::new(),
        watched: Vec::new(),
    };
    let config = check.config(file, settings);
    if !check.problems.is_empty() {
        return Err(ConfigError::Invalid {
            origin: origin.to_owned(),
            problems: check.problems,
        });
    }
    Ok(Config {
        watched: check.watched,
        ..config
    })
}

/// Collects what is wrong while it builds the resolved form.
struct Check<'e> {
    environment: &'e Environment,
    problems: Vec<String>,
    watched: Vec<PathBuf>,
}

impl Check<'_> {
    fn config(&mut self, file: File, settings: Vec<print::Setting>) -> Config {
        let timeouts = self.timeouts(&file.timeouts);
        let data_dir = file.data.dir.clone();
        if data_dir.as_os_str().is_empty() {
            self.problem("data.dir", "is empty");
        }
        self.listen("admin.listen", &file.admin.listen);
        Config {
            server: self.server(&file.server, &file.data),
            admin: file.admin.clone(),
            log: file.log.clone(),
            timeouts,
            cache: self.cache(&file.cache),
            flood: self.flood(&file.flood),
            records: self.records(&file.records),
            analytics: self.analytics(&file),
            redis: self.redis(&file.redis),
            engine: self.engine(&file.engine, &file.data),
            finetunes: self.finetunes(&file.finetunes),
            catalog_overrides: self.catalog(&file.catalog),
            providers: self.providers(&file),
            accounts: self.accounts(&file, &timeouts),
            data: file.data,
            settings,
            watched: Vec::new(),
        }
    }

    fn server(&mut self, server: &file::Server, data: &file::Data) -> Server {
        self.listen("server.listen", &server.listen);
        self.at_least_one("server.max_in_flight", server.max_in_flight as u64);
        for (key, ms) in [
            (
                "server.header_read_timeout_ms",
                server.header_read_timeout_ms,
            ),
            ("server.body_read_timeout_ms", server.body_read_timeout_ms),
        ] {
            self.at_least_one(key, ms);
        }
        Server {
            listen: server.listen.clone(),
            threads: (server.threads > 0).then_some(server.threads),
            max_body_bytes: self.bytes("server.max_body_bytes", server.max_body_bytes),
            max_buffered_body_bytes: self.bytes(
                "server.max_buffered_body_bytes",
                // What is not taken at all is not held either.
                server.max_buffered_body_bytes.min(server.max_body_bytes),
            ),
            header_read_timeout: Duration::from_millis(server.header_read_timeout_ms),
            body_read_timeout: Duration::from_millis(server.body_read_timeout_ms),
            max_in_flight: server.max_in_flight,
            cloudflare_statuses: server.cloudflare_statuses,
            http2: server.http2,
            tls: server.tls.clone(),
            upgrade_socket: server
                .upgrade_socket
                .clone()
                .unwrap_or_else(|| data.dir.join("upgrade.sock")),
            drain_timeout: Duration::from_millis(server.drain_timeout_ms),
        }
    }

    fn timeouts(&mut self, timeouts: &file::Timeouts) -> Timeouts {
        for (key, ms) in [
            ("timeouts.connect_ms", timeouts.connect_ms),
            ("timeouts.response_head_ms", timeouts.response_head_ms),
            ("timeouts.idle_ms", timeouts.idle_ms),
        ] {
            self.at_least_one(key, ms);
        }
        Timeouts::from(timeouts)
    }

    fn cache(&mut self, cache: &file::Cache) -> Cache {
        Cache {
            max_bytes: cache.max_bytes,
            max_entry_bytes: self.bytes("cache.max_entry_bytes", cache.max_entry_bytes),
            max_request_bytes: self.bytes("cache.max_request_bytes", cache.max_request_bytes),
        }
    }

    fn flood(&mut self, flood: &file::Flood) -> Option<Flood> {
        self.at_least_one(
            "flood.requests_per_second",
            flood.requests_per_second.into(),
        );
        self.at_least_one("flood.burst", flood.burst.into());
        self.at_least_one("flood.max_clients", flood.max_clients);
        flood.enabled.then_some(Flood {
            requests_per_second: flood.requests_per_second,
            burst: flood.burst,
            max_clients: flood.max_clients,
        })
    }

    fn records(&mut self, records: &file::Records) -> Records {
        Records {
            capture_bodies: records.capture_bodies,
            max_body_bytes: self.bytes("records.max_body_bytes", records.max_body_bytes),
            body_memory_bytes: self.bytes("records.body_memory_bytes", records.body_memory_bytes),
        }
    }

    fn analytics(&mut self, file: &File) -> analytics::Config {
        let records = &file.records;
        analytics::Config {
            data_dir: file.data.dir.clone(),
            spool_max_bytes: records.spool_max_bytes,
            segment_bytes: records.segment_bytes,
            max_block_rows: records.max_block_rows,
            max_block_bytes: records.max_block_bytes,
            max_block_age_ms: records.max_block_age_ms,
            retention_days: records.retention_days,
            body_retention_days: records.body_retention_days,
            clickhouse: self.clickhouse(&file.clickhouse),
        }
    }

    fn clickhouse(&mut self, written: &file::ClickHouse) -> Option<analytics::ClickHouseConfig> {
        let password = written
            .password
            .as_ref()
            .and_then(|password| self.secret("clickhouse.password", password));
        let url = match check_base_url(written.url.as_ref()?) {
            Ok(url) => url,
            Err(problem) => {
                self.problem("clickhouse.url", problem);
                return None;
            }
        };
        Some(analytics::ClickHouseConfig {
            url,
            database: written.database.clone(),
            user: written.user.clone(),
            password: password.map(|password| analytics::Password::new(password.expose())),
            insert_timeout_ms: written.insert_timeout_ms,
            query_timeout_ms: written.query_timeout_ms,
        })
    }

    fn redis(&mut self, redis: &file::Redis) -> Option<Redis> {
        self.at_least_one("redis.connect_timeout_ms", redis.connect_timeout_ms);
        self.at_least_one("redis.command_timeout_ms", redis.command_timeout_ms);
        let url = self.secret("redis.url", redis.url.as_ref()?)?;
        let is_redis = ["redis://", "rediss://"]
            .iter()
            .any(|scheme| url.expose().starts_with(scheme));
        if !is_redis {
            self.problem(
                "redis.url",
                "begins with neither `redis://` nor `rediss://`",
            );
        }
        Some(Redis {
            url,
            key_prefix: redis.key_prefix.clone(),
            connect_timeout: Duration::from_millis(redis.connect_timeout_ms),
            command_timeout: Duration::from_millis(redis.command_timeout_ms),
        })
    }

    fn engine(&mut self, engine: &EngineEntry, data: &file::Data) -> Option<Engine> {
        for (key, message) in engine.problems() {
            self.problem(&format!("engine.{key}"), &message);
        }
        engine
            .enabled
            .then(|| Engine::from_entry(engine, &data.dir))
    }

    fn finetunes(&mut self, written: &FinetunesEntry) -> Limits {
        let limits = Limits::from_entry(written);
        self.at_least_one("finetunes.max_bytes", limits.max_bytes);
        self.at_least_one("finetunes.max_rank", limits.max_rank.into());
        limits
    }

    fn catalog(&mut self, catalog: &file::Catalog) -> Option<String> {
        let path = catalog.file.as_ref()?;
        self.watched.push(path.clone());
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.problem(
                    "catalog.file",
                    &format!("cannot read `{}`: {error}", path.display()),
                );
                None
            }
        }
    }

    fn providers(&mut self, file: &File) -> HashMap<String, Arc<ProviderConfig>> {
        let mut providers = HashMap::new();
        for (written_slug, written) in &file.providers {
            let path = format!("providers.{written_slug}");
            let Some(slug) = canonical_slug(written_slug) else {
                self.problem(
                    &path,
                    "no provider of that name; name your own `custom-<name>`",
                );
                continue;
            };
            let provider = ProviderConfig {
                base_url: self.base_url(&path, written, written_slug),
                api_key: written
                    .api_key
                    .as_ref()
                    .and_then(|key| self.secret(&format!("{path}.api_key"), key)),
                token_url: self.token_url(&path, written, slug),
                headers: self.headers(&path, written),
            };
            if providers
                .insert(slug.to_owned(), Arc::new(provider))
                .is_some()
            {
                self.problem(
                    &path,
                    &format!("`{slug}` stands in the file twice, once by another name"),
                );
            }
        }
        providers
    }

    fn base_url(&mut self, path: &str, written: &file::Provider, slug: &str) -> Option<String> {
        let Some(url) = &written.base_url else {
            if slug.starts_with(CUSTOM_PREFIX) {
                self.problem(
                    &format!("{path}.base_url"),
                    "is missing: a custom provider needs one",
                );
            }
            return None;
        };
        match check_base_url(url) {
            Ok(url) => Some(url),
            Err(problem) => {
                self.problem(&format!("{path}.base_url"), problem);
                None
            }
        }
    }

    fn token_url(&mut self, path: &str, written: &file::Provider, slug: &str) -> Option<String> {
        let url = written.token_url.as_ref()?;
        let path = format!("{path}.token_url");
        if slug != "google-vertex-ai" {
            self.problem(&path, "is for google-vertex-ai only");
            return None;
        }
        match check_base_url(url) {
            Ok(url) => Some(url),
            Err(problem) => {
                self.problem(&path, problem);
                None
            }
        }
    }

    fn headers(&mut self, path: &str, written: &file::Provider) -> Vec<(String, Secret)> {
        let mut headers = Vec::new();
        for (name, value) in &written.headers {
            let path = format!("{path}.headers.{name}");
            let Ok(header) = HeaderName::try_from(name.as_str()) else {
                self.problem(&path, "is not an HTTP header name");
                continue;
            };
            let Some(value) = self.secret(&path, value) else {
                continue;
            };
            if HeaderValue::from_str(value.expose()).is_err() {
                self.problem(&path, "is not an HTTP header value");
                continue;
            }
            headers.push((header.as_str().to_owned(), value));
        }
        headers
    }

    fn accounts(
        &mut self,
        file: &File,
        timeouts: &Timeouts,
    ) -> HashMap<String, HashMap<String, Arc<Gateway>>> {
        let mut accounts: HashMap<String, HashMap<String, Arc<Gateway>>> = HashMap::new();
        for (index, entry) in file.gateways.iter().enumerate() {
            let path = format!("gateways[{index}]");
            for (key, message) in entry.problems() {
                self.problem(&format!("{path}.{key}"), &message);
            }
            let gateway = Arc::new(Gateway::from_entry(entry, timeouts));
            let gateways = accounts.entry(entry.account.clone()).or_default();
            if gateways.insert(entry.id.clone(), gateway).is_some() {
                self.problem(
                    &path,
                    &format!(
                        "gateway `{}` of account `{}` stands in the file twice",
                        entry.id, entry.account
                    ),
                );
            }
        }
        accounts.entry(DEFAULT_ACCOUNT.to_owned()).or_default();
        for (account, gateways) in &mut accounts {
            gateways
                .entry(DEFAULT_GATEWAY.to_owned())
                .or_insert_with(|| {
                    Arc::new(Gateway::unconfigured(account, DEFAULT_GATEWAY, timeouts))
                });
        }
        accounts
    }

    fn secret(&mut self, path: &str, reference: &SecretRef) -> Option<Secret> {
        self.watched
            .extend(reference.watched_file().map(PathBuf::from));
        match reference.read(self.environment) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                self.problem(path, &problem);
                None
            }
        }
    }

    fn listen(&mut self, path: &str, listen: &str) {
        let is_address = listen
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_address {
            self.problem(path, &format!("`{listen}` is not `address:port`"));
        }
    }

    fn at_least_one(&mut self, path: &str, value: u64) {
        if value == 0 {
            self.problem(path, "is 0, at least 1 is needed");
        }
    }

    fn bytes(&mut self, path: &str, value: u64) -> usize {
        if value > MAX_BYTES {
            self.problem(path, &format!("{value} is more than {MAX_BYTES}"));
        }
        value.min(MAX_BYTES) as usize
    }

    fn problem(&mut self, path: &str, message: &str) {
        self.problems.push(format!("`{path}`: {message}"));
    }
}

impl From<&file::Timeouts> for Timeouts {
    fn from(written: &file::Timeouts) -> Timeouts {
        Timeouts {
            connect: Duration::from_millis(written.connect_ms),
            response_head: Duration::from_millis(written.response_head_ms),
            first_token: (written.first_token_ms > 0)
                .then(|| Duration::from_millis(written.first_token_ms)),
            idle: Duration::from_millis(written.idle_ms),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts::from(&file::Timeouts::default())
    }
}

const CUSTOM_PREFIX: &str = "custom-";

/// Longest name of a custom provider, bytes, prefix included.
const MAX_SLUG_BYTES: usize = 64;

/// The one name of a provider, `None` when nobody knows it.
fn canonical_slug(written: &str) -> Option<&str> {
    if let Some(own) = written.strip_prefix(CUSTOM_PREFIX) {
        let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = !own.is_empty() && own.bytes().all(is_fine);
        return (is_name && written.len() <= MAX_SLUG_BYTES).then_some(written);
    }
    providers::find(written).map(|spec| spec.slug)
}

/// A base address: scheme, host, optional port and path; nothing that a path could not follow.
fn check_base_url(url: &str) -> Result<String, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("begins with neither `http://` nor `https://`");
    }
    let authority = uri.authority().ok_or("names no host")?;
    if authority.host().is_empty() {
        return Err("names no host");
    }
    if authority.as_str().contains('@') {
        return Err("holds a credential; use api_key or headers");
    }
    if uri.query().is_some() || url.contains('#') {
        return Err("holds a query or a fragment");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests;

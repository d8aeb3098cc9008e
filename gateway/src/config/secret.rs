//! Where secrets and environment overrides come from. The only file that reads the environment.
//!
//! A setting that holds a secret is written as a reference (`{ env = "NAME" }`, `{ file = "path" }`)
//! or, for a laptop, as a plain string. The written form is [`SecretRef`], what the program uses is
//! [`Secret`]. Neither prints its value: not in `Debug`, not in errors, not in `print-config`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Variables that override a setting begin with this: `AI_GATEWAY_SERVER__LISTEN`.
const OVERRIDE_PREFIX: &str = "AI_GATEWAY_";

/// Between section and key; a single underscore is part of a key's name.
const OVERRIDE_SEPARATOR: &str = "__";

/// A secret file larger than this is a mistake (a key is some hundred bytes, a certificate a few kB).
const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// What a written secret becomes. `Debug` hides it; [`Secret::expose`] is where it comes out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(value: impl Into<Arc<str>>) -> Secret {
        Secret(value.into())
    }

    /// The value itself. Callers send it where it belongs and put it nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A secret as written in the file.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    Env(String),
    File(PathBuf),
    Plain(String),
}

impl SecretRef {
    /// Reads the secret. The error names the reference, never the value.
    pub(super) fn read(&self, environment: &Environment) -> Result<Secret, String> {
        let value = match self {
            SecretRef::Plain(value) => value.clone(),
            SecretRef::Env(name) => environment
                .get(name)
                .ok_or_else(|| format!("environment variable `{name}` is not set"))?
                .to_owned(),
            SecretRef::File(path) => read_secret_file(path)?,
        };
        // Editors and `echo` end a file with a newline; no credential contains one.
        let value = value.trim_end_matches(['\r', '\n']);
        if value.is_empty() {
            return Err(format!("{} is empty", self.describe()));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("{} holds control characters", self.describe()));
        }
        Ok(Secret::new(value))
    }

    /// The file to watch for a rotated secret.
    pub(super) fn watched_file(&self) -> Option<&Path> {
        match self {
            SecretRef::File(path) => Some(path),
            SecretRef::Env(_) | SecretRef::Plain(_) => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            SecretRef::Env(name) => format!("environment variable `{name}`"),
            SecretRef::File(path) => format!("file `{}`", path.display()),
            SecretRef::Plain(_) => "the secret".to_owned(),
        }
    }
}

fn read_secret_file(path: &Path) -> Result<String, String> {
    let problem = |error: std::io::Error| format!("cannot read file `{}`: {error}", path.display());
    let size = std::fs::metadata(path).map_err(problem)?.len();
    if size > MAX_SECRET_FILE_BYTES {
        return Err(format!(
            "file `{}` has {size} bytes, a secret at most {MAX_SECRET_FILE_BYTES}",
            path.display()
        ));
    }
    std::fs::read_to_string(path).map_err(problem)
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "SecretRef(env {name})"),
            SecretRef::File(path) => write!(f, "SecretRef(file {})", path.display()),
            SecretRef::Plain(_) => f.write_str("SecretRef(..)"),
        }
    }
}

/// Written back for `print-config`: a reference as it is, a plain value hidden.
impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, value) = match self {
            SecretRef::Plain(_) => return serializer.serialize_str("(hidden)"),
            SecretRef::Env(name) => ("env", name.clone()),
            SecretRef::File(path) => ("file", path.display().to_string()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(kind, &value)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretRef, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, { env = \"NAME\" } or { file = \"path\" }")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<SecretRef, E> {
        Ok(SecretRef::Plain(value.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            let reference = match key.as_str() {
                "env" => SecretRef::Env(map.next_value()?),
                "file" => SecretRef::File(map.next_value()?),
                other => return Err(de::Error::unknown_field(other, &["env", "file"])),
            };
            if found.replace(reference).is_some() {
                return Err(de::Error::custom("name either `env` or `file`, not both"));
            }
        }
        found.ok_or_else(|| de::Error::custom("name the secret's place: `env` or `file`"))
    }
}

/// The process environment, or a made-up one in tests. Values may be secret, so no `Debug`.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Variables that are not UTF-8 are left out: no setting can use them.
    pub fn process() -> Environment {
        let utf8 = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Environment(utf8.collect())
    }

    /// The same variables without those that override settings: what a text given by a program
    /// (and not by an operator) is resolved against.
    pub(super) fn without_overrides(mut self) -> Environment {
        self.0.retain(|name, _| override_path(name).is_none());
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Variables of the form `AI_GATEWAY_<SECTION>__<KEY>` with the path they set.
    pub(super) fn overrides(&self) -> impl Iterator<Item = (&str, Vec<String>, &str)> {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), override_path(name)?, value.as_str())))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Environment {
        Environment(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// `AI_GATEWAY_PROVIDERS__GOOGLE_AI_STUDIO__BASE_URL` sets `providers.google-ai-studio.base_url`:
/// a shell variable cannot hold the hyphen of a provider's name. Names without the separator are
/// not overrides (`AI_GATEWAY_TOKEN` may mean something to a script).
fn override_path(name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(OVERRIDE_PREFIX)?;
    if !rest.contains(OVERRIDE_SEPARATOR) {
        return None;
    }
    let mut path: Vec<String> = rest
        .split(OVERRIDE_SEPARATOR)
        .map(str::to_ascii_lowercase)
        .collect();
    if path[0] == "providers" {
        path[1] = path[1].replace('_', "-");
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SecretRef, toml::de::Error> {
        #[derive(Deserialize)]
        struct Holder {
            key: SecretRef,
        }
        toml::from_str::<Holder>(text).map(|holder| holder.key)
    }

    #[test]
    fn reads_the_three_written_forms() {
        assert_eq!(
            parse("key = 'sk-1'").unwrap(),
            SecretRef::Plain("sk-1".into())
        );
        assert_eq!(
            parse("key = { env = 'X' }").unwrap(),
            SecretRef::Env("X".into())
        );
        assert_eq!(
            parse("key = { file = '/k' }").unwrap(),
            SecretRef::File("/k".into())
        );
        assert!(parse("key = { env = 'X', file = 'y' }").is_err());
        assert!(parse("key = { vault = 'X' }").is_err());
        assert!(parse("key = {}").is_err());
    }

    #[test]
    fn reads_from_the_environment_and_from_files() {
        let environment = Environment::from_iter([("KEY", "sk-env\n"), ("EMPTY", "")]);
        let read = |reference: SecretRef| reference.read(&environment);
        assert_eq!(
            read(SecretRef::Env("KEY".into())).unwrap().expose(),
            "sk-env"
        );
        assert!(
            read(SecretRef::Env("EMPTY".into()))
                .unwrap_err()
                .contains("`EMPTY` is empty")
        );
        assert!(
            read(SecretRef::Env("NONE".into()))
                .unwrap_err()
                .contains("`NONE` is not set")
        );
        assert!(
            read(SecretRef::File("/no/such".into()))
                .unwrap_err()
                .contains("`/no/such`")
        );
    }

    #[test]
    fn never_prints_a_secret() {
        let canary = "sk-canary";
        let plain = SecretRef::Plain(canary.into());
        let two_lines = SecretRef::Plain("sk-canary\nx".into());
        let texts = [
            format!("{plain:?}"),
            format!("{:?}", Secret::new(canary)),
            serde_json::to_string(&plain).unwrap(),
            two_lines.read(&Environment::default()).unwrap_err(),
        ];
        for text in texts {
            assert!(!text.contains(canary), "{text}");
        }
    }

    #[test]
    fn override_names_become_paths() {
        let path = |name| override_path(name).map(|path| path.join("."));
        assert_eq!(
            path("AI_GATEWAY_SERVER__MAX_IN_FLIGHT").as_deref(),
            Some("server.max_in_flight")
        );
        assert_eq!(
            path("AI_GATEWAY_SERVER__TLS__CERT").as_deref(),
            Some("server.tls.cert")
        );
        assert_eq!(
            path("AI_GATEWAY_PROVIDERS__GOOGLE_AI_STUDIO__BASE_URL").as_deref(),
            Some("providers.google-ai-studio.base_url")
        );
        assert_eq!(path("AI_GATEWAY_TOKEN"), None);
        assert_eq!(path("PATH"), None);
    }
}

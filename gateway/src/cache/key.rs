//! Which requests may share an answer: the parts of a step → [`Key`].
//!
//! SHA-256 over every part with its length before it, so that no two lists of parts give the same
//! bytes. Credentials go into the hash and nowhere else.

use std::fmt;

use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// Raised when the parts or their order change: old entries in a shared cache are then not found.
const FORMAT: u8 = 1;

/// Names a stored reply.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}..)", &self.to_hex()[..12])
    }
}

/// Everything that has to be equal for two requests to share an answer.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'r> {
    pub account: &'r str,
    pub gateway: &'r str,
    /// Of the gateway's settings.
    pub generation: u64,
    /// Slug of the provider.
    pub provider: &'r str,
    pub method: &'r str,
    /// Final URL: scheme, host, path and query.
    pub url: &'r str,
    pub payer: Payer<'r>,
    /// Headers as they go upstream; those that shape the reply are picked from them.
    pub headers: &'r HeaderMap,
    pub content: Content<'r>,
    /// The reply is asked for as a stream. In the body for most dialects, but a custom key replaces
    /// that, and a stream must never answer a caller who waits for JSON.
    pub is_stream: bool,
    /// For the embedded engine: revision of the model and generation of the adapter.
    pub local_model: Option<&'r str>,
}

/// On whose account the provider answers.
#[derive(Clone, Copy)]
pub enum Payer<'r> {
    /// The credentials that came with the request.
    Credentials(&'r [&'r str]),
    /// A stored key or the embedded engine: the caller's token id, `None` for everybody without one.
    Caller(Option<&'r str>),
}

/// Credentials do not print.
impl fmt::Debug for Payer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payer::Credentials(list) => write!(f, "Credentials({})", list.len()),
            Payer::Caller(id) => write!(f, "Caller({id:?})"),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Content<'r> {
    Body(&'r [u8]),
    /// `cf-aig-cache-key` instead of the body. It stays within its payer unless the gateway shares
    /// (`cache_key_shared`).
    Custom {
        key: &'r str,
        is_shared: bool,
    },
}

impl KeyParts<'_> {
    pub fn key(&self) -> Key {
        let mut hash = PartHash(Sha256::new());
        hash.part(&[FORMAT, u8::from(self.is_stream)]);
        hash.part(self.account.as_bytes());
        hash.part(self.gateway.as_bytes());
        hash.part(&self.generation.to_be_bytes());
        hash.part(self.provider.as_bytes());
        hash.part(self.method.as_bytes());
        hash.part(self.url.as_bytes());
        hash.part(self.local_model.unwrap_or_default().as_bytes());
        self.hash_payer(&mut hash);
        hash_format(self.headers, &mut hash);
        match self.content {
            Content::Body(body) => {
                hash.part(b"body");
                hash.part(body);
            }
            Content::Custom { key, .. } => {
                hash.part(b"custom");
                hash.part(key.as_bytes());
            }
        }
        Key(hash.0.finalize().into())
    }

    fn hash_payer(&self, hash: &mut PartHash) {
        match (self.content, self.payer) {
            (
                Content::Custom {
                    is_shared: true, ..
                },
                _,
            ) => hash.part(b"shared"),
            (_, Payer::Caller(id)) => {
                hash.part(b"caller");
                // Nobody is not a caller whose id is empty.
                hash.part(&[u8::from(id.is_some())]);
                hash.part(id.unwrap_or_default().as_bytes());
            }
            (_, Payer::Credentials(list)) => {
                hash.part(b"credentials");
                hash.part(&list.len().to_be_bytes());
                for credential in list {
                    hash.part(credential.as_bytes());
                }
            }
        }
    }
}

/// Headers that shape the reply: another `accept` or beta switch is another answer.
fn is_format_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "accept" | "accept-encoding" | "content-type" | "cartesia-version"
    ) || name.starts_with("anthropic-")
        || name.starts_with("openai-")
}

fn hash_format(headers: &HeaderMap, hash: &mut PartHash) {
    let picked = headers.iter().filter(|(name, _)| is_format_header(name));
    let mut sorted: Vec<(&str, &[u8])> = picked
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    // The sort is stable: several values of one name keep their order, which has a meaning.
    sorted.sort_by_key(|(name, _)| *name);
    hash.part(&sorted.len().to_be_bytes());
    for (name, value) in sorted {
        hash.part(name.as_bytes());
        hash.part(value);
    }
}

struct PartHash(Sha256);

impl PartHash {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn every_part_matters() {
        let none = headers(&[]);
        let base = KeyParts {
            account: "a",
            gateway: "g",
            generation: 1,
            provider: "openai",
            method: "POST",
            url: "https://api.example/v1/x",
            payer: Payer::Credentials(&["Bearer one"]),
            headers: &none,
            content: Content::Body(b"{}"),
            is_stream: false,
            local_model: None,
        };
        let accept_json = headers(&[("accept", "application/json")]);
        let accept_sse = headers(&[("accept", "text/event-stream")]);
        let beta = headers(&[("anthropic-beta", "x")]);
        let beta_twice = headers(&[("anthropic-beta", "x"), ("anthropic-beta", "y")]);
        let openai = headers(&[("openai-organization", "o")]);
        let custom = |key, is_shared| Content::Custom { key, is_shared };
        let variants = [
            base,
            KeyParts {
                account: "b",
                ..base
            },
            KeyParts {
                account: "ag",
                gateway: "",
                ..base
            },
            KeyParts {
                gateway: "h",
                ..base
            },
            KeyParts {
                generation: 2,
                ..base
            },
            KeyParts {
                provider: "groq",
                ..base
            },
            KeyParts {
                method: "GET",
                ..base
            },
            KeyParts {
                url: "https://api.example/v1/x?a=1",
                ..base
            },
            KeyParts {
                payer: Payer::Credentials(&["Bearer two"]),
                ..base
            },
            KeyParts {
                payer: Payer::Credentials(&["Bearer one", ""]),
                ..base
            },
            KeyParts {
                payer: Payer::Credentials(&[]),
                ..base
            },
            KeyParts {
                payer: Payer::Caller(None),
                ..base
            },
            KeyParts {
                payer: Payer::Caller(Some("")),
                ..base
            },
            KeyParts {
                payer: Payer::Caller(Some("id")),
                ..base
            },
            KeyParts {
                headers: &accept_json,
                ..base
            },
            KeyParts {
                headers: &accept_sse,
                ..base
            },
            KeyParts {
                headers: &beta,
                ..base
            },
            KeyParts {
                headers: &beta_twice,
                ..base
            },
            KeyParts {
                headers: &openai,
                ..base
            },
            KeyParts {
                content: Content::Body(b"{} "),
                ..base
            },
            KeyParts {
                content: custom("{}", false),
                ..base
            },
            KeyParts {
                content: custom("{}", true),
                ..base
            },
            KeyParts {
                content: custom("x", true),
                ..base
            },
            KeyParts {
                is_stream: true,
                ..base
            },
            KeyParts {
                local_model: Some("rev"),
                ..base
            },
        ];
        let keys: HashSet<_> = variants.iter().map(KeyParts::key).collect();
        assert_eq!(keys.len(), variants.len());
        assert_eq!(base.key(), base.key());
    }

    #[test]
    fn a_shared_custom_key_crosses_payers_and_bodies_only() {
        let none = headers(&[("user-agent", "x"), ("cf-aig-metadata", "{}")]);
        let base = KeyParts {
            account: "a",
            gateway: "g",
            generation: 1,
            provider: "openai",
            method: "POST",
            url: "https://api.example/v1/x",
            payer: Payer::Credentials(&["one"]),
            headers: &none,
            content: Content::Custom {
                key: "faq",
                is_shared: true,
            },
            is_stream: false,
            local_model: None,
        };
        assert_eq!(
            base.key(),
            KeyParts {
                payer: Payer::Caller(Some("t")),
                ..base
            }
            .key()
        );
        assert_ne!(
            base.key(),
            KeyParts {
                provider: "groq",
                ..base
            }
            .key()
        );
        let own = KeyParts {
            content: Content::Custom {
                key: "faq",
                is_shared: false,
            },
            ..base
        };
        assert_ne!(
            own.key(),
            KeyParts {
                payer: Payer::Credentials(&["two"]),
                ..own
            }
            .key()
        );
        let other_agent = headers(&[("user-agent", "y")]);
        assert_eq!(
            base.key(),
            KeyParts {
                headers: &other_agent,
                ..base
            }
            .key()
        );
    }

    #[test]
    fn nothing_secret_prints() {
        let payer = Payer::Credentials(&["sk-canary"]);
        assert_eq!(format!("{payer:?}"), "Credentials(1)");
    }
}

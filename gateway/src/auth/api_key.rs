//! Gateway tokens: what one is, how it looks on the wire, and the set of those that hold.
//!
//! A token is 32 random bytes behind a prefix that leak scanners and we ourselves recognise. It is
//! shown once, when it is made; what stays is its SHA-256. (Random bytes need no slow hash: there is
//! no dictionary to try.)

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// Begins every gateway token.
pub const TOKEN_PREFIX: &str = "aig_";

const RANDOM_BYTES: usize = 32;

/// `RANDOM_BYTES` in base64 without padding.
const RANDOM_CHARACTERS: usize = 43;

/// What a token's account may be instead of a name: all of them.
pub const ANY_ACCOUNT: &str = "*";

/// SHA-256 of a token's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub(crate) [u8; 32]);

impl TokenHash {
    pub fn of(text: &str) -> TokenHash {
        TokenHash(Sha256::digest(text.as_bytes()).into())
    }

    /// What the look-up table is keyed by. It decides only where to compare, not whether to accept.
    fn bucket(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("a digest has 32 bytes"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// A new token's text, to be shown once.
pub fn generate() -> Secret {
    let mut bytes = [0; RANDOM_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system's random source answers");
    Secret::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Whether the text has a gateway token's form, whether or not such a token exists. What has it is
/// never sent to a provider, not even when it was revoked.
pub fn looks_like_token(text: &str) -> bool {
    text.strip_prefix(TOKEN_PREFIX).is_some_and(|rest| {
        rest.len() == RANDOM_CHARACTERS
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// One right a token may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    GatewayRead,
    GatewayRun,
    GatewayEdit,
    WorkersAiRead,
    WorkersAiEdit,
    /// Lists logs without their bodies.
    LogsMetadata,
}

impl Permission {
    pub const ALL: [Permission; 6] = [
        Permission::GatewayRead,
        Permission::GatewayRun,
        Permission::GatewayEdit,
        Permission::WorkersAiRead,
        Permission::WorkersAiEdit,
        Permission::LogsMetadata,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Permission::GatewayRead => "gateway_read",
            Permission::GatewayRun => "gateway_run",
            Permission::GatewayEdit => "gateway_edit",
            Permission::WorkersAiRead => "workers_ai_read",
            Permission::WorkersAiEdit => "workers_ai_edit",
            Permission::LogsMetadata => "logs_metadata",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Rights that include this one: who may edit may read, who may read bodies may list rows.
    fn included_in(self) -> &'static [Permission] {
        match self {
            Permission::GatewayRead => &[Permission::GatewayEdit],
            Permission::WorkersAiRead => &[Permission::WorkersAiEdit],
            Permission::LogsMetadata => &[Permission::GatewayRead, Permission::GatewayEdit],
            Permission::GatewayRun | Permission::GatewayEdit | Permission::WorkersAiEdit => &[],
        }
    }
}

/// The rights of one token.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    pub fn all() -> Permissions {
        Permission::ALL.into_iter().collect()
    }

    pub fn allows(self, permission: Permission) -> bool {
        let has = |permission: Permission| self.0 & permission.bit() != 0;
        has(permission) || permission.included_in().iter().copied().any(has)
    }

    /// Reads a comma list, as written by `Display`. The error is the word nobody knows.
    pub fn parse(list: &str) -> Result<Permissions, String> {
        let words = list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words
            .map(|word| {
                let known = Permission::ALL
                    .into_iter()
                    .find(|permission| permission.as_str() == word);
                known.ok_or_else(|| word.to_owned())
            })
            .collect()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Permissions {
        Permissions(
            permissions
                .into_iter()
                .fold(0, |bits, permission| bits | permission.bit()),
        )
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = Permission::ALL
            .into_iter()
            .filter(|permission| self.0 & permission.bit() != 0);
        let words: Vec<_> = own.map(Permission::as_str).collect();
        f.write_str(&words.join(","))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

/// What is known of a token. Its text is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What rows and `token revoke` call it.
    pub id: Arc<str>,
    pub label: Arc<str>,
    /// An account's name or [`ANY_ACCOUNT`].
    pub account: Arc<str>,
    /// `None` = every gateway of the account.
    pub gateway: Option<Arc<str>>,
    pub permissions: Permissions,
    /// Unix time, microseconds.
    pub created_at_us: i64,
    pub hash: TokenHash,
}

impl Token {
    pub fn covers_account(&self, account: &str) -> bool {
        &*self.account == ANY_ACCOUNT || &*self.account == account
    }

    pub fn covers(&self, account: &str, gateway: &str) -> bool {
        self.covers_account(account) && self.gateway.as_deref().is_none_or(|own| own == gateway)
    }
}

/// Every token that holds, ready to be looked up. Immutable; a change makes a new set.
#[derive(Debug, Default)]
pub struct TokenSet {
    by_bucket: HashMap<u64, Vec<Arc<Token>>>,
    accounts: HashSet<Arc<str>>,
}

impl TokenSet {
    pub fn new(tokens: impl IntoIterator<Item = Token>) -> TokenSet {
        let mut set = TokenSet::default();
        for token in tokens {
            if &*token.account != ANY_ACCOUNT {
                set.accounts.insert(token.account.clone());
            }
            set.by_bucket
                .entry(token.hash.bucket())
                .or_default()
                .push(Arc::new(token));
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.by_bucket.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_bucket.values().map(Vec::len).sum()
    }

    /// Whether a token names this account, which makes it exist.
    pub fn names_account(&self, account: &str) -> bool {
        self.accounts.contains(account)
    }

    pub fn find(&self, text: &str) -> Option<&Arc<Token>> {
        if !looks_like_token(text) {
            return None;
        }
        let hash = TokenHash::of(text);
        let same = |token: &&Arc<Token>| bool::from(token.hash.0.ct_eq(&hash.0));
        self.by_bucket.get(&hash.bucket())?.iter().find(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, account: &str) -> Token {
        Token {
            id: "t".into(),
            label: "l".into(),
            account: account.into(),
            gateway: None,
            permissions: Permissions::all(),
            created_at_us: 0,
            hash: TokenHash::of(text),
        }
    }

    #[test]
    fn tokens_are_recognised_by_form() {
        let text = generate();
        assert!(looks_like_token(text.expose()));
        assert_ne!(text.expose(), generate().expose());
        for other in [
            "",
            "aig_",
            "sk-1",
            "aig_short",
            &text.expose()[1..],
            &format!("{}x", text.expose()),
        ] {
            assert!(!looks_like_token(other), "{other}");
        }
    }

    #[test]
    fn the_set_finds_only_its_own() {
        let (mine, other) = (generate(), generate());
        let set = TokenSet::new([
            token(mine.expose(), "acct"),
            token(other.expose(), ANY_ACCOUNT),
        ]);
        assert_eq!(set.len(), 2);
        assert_eq!(&*set.find(mine.expose()).unwrap().account, "acct");
        assert!(set.find(generate().expose()).is_none());
        assert!(set.names_account("acct") && !set.names_account(ANY_ACCOUNT));
    }

    #[test]
    fn rights_include_lesser_rights() {
        let allows = |list: &str, permission| Permissions::parse(list).unwrap().allows(permission);
        assert!(allows("gateway_edit", Permission::GatewayRead));
        assert!(allows("gateway_read", Permission::LogsMetadata));
        assert!(!allows("gateway_edit", Permission::GatewayRun));
        assert!(!allows("logs_metadata", Permission::GatewayRead));
        assert!(!allows("", Permission::GatewayRead));
        assert_eq!(
            Permissions::parse("gateway_run,admin").unwrap_err(),
            "admin"
        );
        let all = Permissions::all();
        assert_eq!(Permissions::parse(&all.to_string()).unwrap(), all);
    }

    #[test]
    fn hashes_do_not_print() {
        let text = generate();
        let printed = format!("{:?}", token(text.expose(), "a"));
        assert!(printed.contains("TokenHash(..)"), "{printed}");
    }
}

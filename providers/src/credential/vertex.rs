//! Google service accounts: a signed statement of who we are, to be traded for a short-lived access key.
//!
//! The trade itself is a POST that the gateway makes; here are its body and the reading of its answer. The
//! address is fixed: a service account may come from a caller, and its own `token_uri` could name any host.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::{Deserialize, Serialize};

use super::{Credential, CredentialError};

/// Where the assertion is posted, as `application/x-www-form-urlencoded`; also its audience.
pub const EXCHANGE_URL: &str = "https://oauth2.googleapis.com/token";

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The longest lifetime Google accepts.
const LIFETIME_SECONDS: u64 = 3600;

/// A service account's key file, with the region that callers may add to it.
pub struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    key: RsaKeyPair,
    pub region: Option<String>,
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    region: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Serialize)]
struct Head<'a> {
    alg: &'a str,
    typ: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

#[derive(Deserialize)]
struct ExchangeReply {
    access_token: String,
    expires_in: Option<u64>,
}

impl ServiceAccount {
    /// Reads a key file, plain or in base64; `None` when the secret is something else, such as an access key.
    pub fn read(secret: &str) -> Option<Result<ServiceAccount, CredentialError>> {
        let secret = secret.trim();
        let json = if secret.starts_with('{') {
            secret.as_bytes().to_vec()
        } else {
            // Base64 of `{` begins with one of these letters; an access key begins with `ya29.`.
            let decoded = secret
                .starts_with(['e', 'I'])
                .then(|| STANDARD.decode(secret).ok())
                .flatten()?;
            let first = decoded.iter().find(|byte| !byte.is_ascii_whitespace())?;
            if *first != b'{' {
                return None;
            }
            decoded
        };
        Some(ServiceAccount::from_key_file(&json))
    }

    fn from_key_file(json: &[u8]) -> Result<ServiceAccount, CredentialError> {
        let file: KeyFile = serde_json::from_slice(json).map_err(|_| {
            CredentialError::ServiceAccount("must be JSON with client_email and private_key")
        })?;
        let der = pem_body(&file.private_key).ok_or(CredentialError::ServiceAccount(
            "has a private_key that is not PEM",
        ))?;
        let key = RsaKeyPair::from_pkcs8(&der).map_err(|_| {
            CredentialError::ServiceAccount("has a private_key that is not an RSA key in PKCS#8")
        })?;
        Ok(ServiceAccount {
            email: file.client_email,
            key_id: file.private_key_id,
            key,
            region: file.region,
        })
    }

    /// The body to post to [`EXCHANGE_URL`]; good for an hour from `now_unix`.
    pub fn exchange_body(&self, now_unix: u64) -> Result<String, CredentialError> {
        let assertion = self.assertion(now_unix)?;
        // Base64url and dots need no escaping; the colons of the grant type do.
        Ok(format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        ))
    }

    fn assertion(&self, now_unix: u64) -> Result<String, CredentialError> {
        let head = Head {
            alg: "RS256",
            typ: "JWT",
            kid: self.key_id.as_deref(),
        };
        let claims = Claims {
            iss: &self.email,
            scope: SCOPE,
            aud: EXCHANGE_URL,
            iat: now_unix,
            exp: now_unix.saturating_add(LIFETIME_SECONDS),
        };
        let part = |json: Result<Vec<u8>, serde_json::Error>| {
            json.map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
                .expect("strings and numbers always serialise")
        };
        let mut statement = format!(
            "{}.{}",
            part(serde_json::to_vec(&head)),
            part(serde_json::to_vec(&claims))
        );
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                statement.as_bytes(),
                &mut signature,
            )
            .map_err(|_| CredentialError::ServiceAccount("has a private_key that cannot sign"))?;
        statement.push('.');
        statement.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(statement)
    }
}

/// The access key in the answer, and for how many seconds it is good.
pub fn read_exchange_reply(body: &[u8]) -> Result<(Credential, u64), CredentialError> {
    let reply: ExchangeReply = serde_json::from_slice(body).map_err(|_| {
        CredentialError::ServiceAccount("was refused: the exchange gave no access key")
    })?;
    Ok((
        Credential::new(reply.access_token),
        reply.expires_in.unwrap_or(LIFETIME_SECONDS),
    ))
}

fn pem_body(pem: &str) -> Option<Vec<u8>> {
    let (_, after) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (body, _) = after.split_once("-----END PRIVATE KEY-----")?;
    let body: String = body.split_whitespace().collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    /// Made for this test and used nowhere else.
    const KEY: &str = include_str!("throwaway_key.txt");

    fn key_file() -> String {
        let pem = format!(
            "-----BEGIN PRIVATE {0}-----\n{KEY}-----END PRIVATE {0}-----\n",
            "KEY"
        );
        serde_json::json!({
            "type": "service_account",
            "client_email": "robot@project.iam.gserviceaccount.com",
            "private_key": pem,
            "private_key_id": "kid-1",
            "token_uri": "https://evil.example/token",
            "region": "europe-west1",
        })
        .to_string()
    }

    #[test]
    fn the_assertion_verifies_and_says_who_and_how_long() {
        let account = ServiceAccount::read(&key_file())
            .expect("a key file")
            .expect("a good key");
        assert_eq!(account.region.as_deref(), Some("europe-west1"));
        let assertion = account.assertion(1_700_000_000).expect("a signature");

        let (statement, signature) = assertion.rsplit_once('.').expect("three parts");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        let public =
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, account.key.public().as_ref());
        public
            .verify(statement.as_bytes(), &signature)
            .expect("the signature is ours");

        let claims = statement.split('.').nth(1).expect("two parts");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
        assert_eq!(claims["iss"], "robot@project.iam.gserviceaccount.com");
        // Not the key file's own idea of where to go.
        assert_eq!(claims["aud"], EXCHANGE_URL);
        assert_eq!(claims["exp"], 1_700_003_600_u64);
    }

    #[test]
    fn key_files_come_plain_or_in_base64_and_access_keys_are_neither() {
        assert!(
            ServiceAccount::read(&STANDARD.encode(key_file()))
                .is_some_and(|account| account.is_ok())
        );
        assert!(ServiceAccount::read("ya29.a0AfH6").is_none());
        assert!(ServiceAccount::read("eyJhbGciOi.x.y").is_none());
        assert!(ServiceAccount::read("{}").is_some_and(|account| account.is_err()));
        let foreign = r#"{"client_email":"a","private_key":"-----BEGIN RSA PRIVATE KEY-----"}"#;
        assert!(ServiceAccount::read(foreign).is_some_and(|account| account.is_err()));
    }

    #[test]
    fn the_exchange_answer_gives_key_and_lifetime() {
        let (credential, seconds) =
            read_exchange_reply(br#"{"access_token":"ya29.x","expires_in":3599}"#)
                .expect("an answer");
        assert_eq!((credential.reveal(), seconds), ("ya29.x", 3599));
        assert!(read_exchange_reply(br#"{"error":"invalid_grant"}"#).is_err());
    }
}

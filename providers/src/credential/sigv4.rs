//! AWS Signature Version 4, for requests whose body is at hand.
//!
//! The canonical path encodes the path as it goes on the wire once more (`%3A` becomes `%253A`): that is the
//! rule for every service but S3, and why the path must be final before it is signed.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::{digest, hmac};
use serde::Deserialize;

use crate::url::Upstream;

/// RFC 3986's unreserved characters stay, everything else is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// A key pair, as stored: `{"accessKeyId", "secretAccessKey", "sessionToken"?}`. A stored `region` is not read:
/// the path names the region.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AwsKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl AwsKeys {
    pub fn parse(json: &str) -> Option<AwsKeys> {
        let keys: AwsKeys = serde_json::from_str(json).ok()?;
        let may_be_sent =
            |value: &str| !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
        let is_usable = may_be_sent(&keys.access_key_id)
            && !keys.secret_access_key.is_empty()
            && keys.session_token.as_deref().is_none_or(may_be_sent);
        is_usable.then_some(keys)
    }
}

/// The headers to add: `x-amz-date`, the session's, and `authorization`. Signed are the host, the content type
/// when there is exactly one, and the added headers.
pub(super) fn sign(
    keys: &AwsKeys,
    method: &str,
    upstream: &Upstream,
    headers: &[(String, String)],
    body: &[u8],
    now_unix: u64,
) -> Vec<(String, String)> {
    // Only Bedrock has this scheme, and its paths always name a region. A request from elsewhere gets a
    // signature that AWS refuses.
    let (service, region) = match &upstream.aws {
        Some(scope) => (scope.service, scope.region.as_str()),
        None => ("bedrock", "us-east-1"),
    };
    let time = amz_date(now_unix);
    let mut added = vec![("x-amz-date".to_owned(), time.clone())];
    if let Some(session) = &keys.session_token {
        added.push(("x-amz-security-token".to_owned(), session.clone()));
    }

    let mut signed: Vec<(&str, String)> = vec![("host", upstream.authority())];
    let mut content_types = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if let (Some((_, value)), None) = (content_types.next(), content_types.next()) {
        signed.push(("content-type", value.clone()));
    }
    signed.extend(
        added
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    signed.sort();
    let signed_names = signed
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(";");

    let (path, query) = upstream
        .path_and_query
        .split_once('?')
        .unwrap_or((&upstream.path_and_query, ""));
    let mut request = format!(
        "{method}\n{}\n{}\n",
        utf8_percent_encode(path, ENCODED_IN_PATH),
        canonical_query(query)
    );
    for (name, value) in &signed {
        let single_spaced = value.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(request, "{name}:{single_spaced}").expect("writing to a string cannot fail");
    }
    write!(request, "\n{signed_names}\n{}", sha256_hex(body))
        .expect("writing to a string cannot fail");

    let day = &time[..8];
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        sha256_hex(request.as_bytes())
    );
    let mut key = hmac_sha256(format!("AWS4{}", keys.secret_access_key).as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        key = hmac_sha256(key.as_ref(), part);
    }
    let signature = hex(hmac_sha256(key.as_ref(), &to_sign).as_ref());
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed_names}, Signature={signature}",
        keys.access_key_id
    );
    added.push(("authorization".to_owned(), authorization));
    added
}

/// Parameters decoded, encoded in AWS's way and sorted.
fn canonical_query(query: &str) -> String {
    let encode = |text: &str| {
        let decoded = percent_decode_str(text).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&decoded, ENCODED).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode(name), encode(value))
        })
        .collect();
    pairs.sort();
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

fn amz_date(now_unix: u64) -> String {
    let seconds = i64::try_from(now_unix).unwrap_or(i64::MAX);
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    time.to_zoned(TimeZone::UTC)
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string()
}

fn hmac_sha256(key: &[u8], message: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes())
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::AwsScope;

    /// Requests and signatures as AWS publishes them: its Signature Version 4 test suite (all of 2015-08-30
    /// 12:36:00 UTC) and the worked example of the IAM documentation.
    #[rustfmt::skip]
    const PUBLISHED: &[(&str, &str, &str, &str, &str, &str, &str)] = &[
        ("service", "example.amazonaws.com", "GET", "/", "", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("service", "example.amazonaws.com", "POST", "/", "", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("service", "example.amazonaws.com", "GET", "/?Param2=value2&Param1=value1", "", "", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ("service", "example.amazonaws.com", "GET", "/\u{1234}", "", "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ("service", "example.amazonaws.com", "POST", "/", "application/x-www-form-urlencoded", "Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
        ("iam", "iam.amazonaws.com", "GET", "/?Action=ListUsers&Version=2010-05-08", "application/x-www-form-urlencoded; charset=utf-8", "", "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
    ];

    fn example_keys() -> AwsKeys {
        AwsKeys {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        }
    }

    fn at(host: &str, path_and_query: &str, service: &'static str) -> Upstream {
        Upstream {
            tls: true,
            host: host.to_owned(),
            port: 443,
            path_and_query: path_and_query.to_owned(),
            aws: Some(AwsScope {
                service,
                region: "us-east-1".to_owned(),
            }),
        }
    }

    #[test]
    fn agrees_with_the_published_vectors() {
        for (service, host, method, path, content_type, body, signature) in PUBLISHED {
            let headers: Vec<_> = (!content_type.is_empty())
                .then(|| ("Content-Type".to_owned(), (*content_type).to_owned()))
                .into_iter()
                .collect();
            let upstream = at(host, path, service);
            let added = sign(
                &example_keys(),
                method,
                &upstream,
                &headers,
                body.as_bytes(),
                1_440_938_160,
            );
            let authorization = &added.last().expect("the signature comes last").1;
            assert!(
                authorization.ends_with(signature),
                "{method} {path}: {authorization}"
            );
            assert!(
                authorization.contains("/20150830/us-east-1/"),
                "{authorization}"
            );
        }
    }

    #[test]
    fn encoded_paths_are_encoded_again_and_sessions_signed() {
        let keys = AwsKeys {
            session_token: Some("SESSION".to_owned()),
            ..example_keys()
        };
        let signature = |path: &str| {
            sign(
                &keys,
                "POST",
                &at("h", path, "bedrock"),
                &[],
                b"{}",
                1_440_938_160,
            )
        };
        let added = signature("/model/a%3A0/converse");
        assert_eq!(
            added[1],
            ("x-amz-security-token".to_owned(), "SESSION".to_owned())
        );
        assert!(
            added[2]
                .1
                .contains("SignedHeaders=host;x-amz-date;x-amz-security-token")
        );
        // The raw colon is another request on the wire, and so has another signature.
        assert_ne!(added, signature("/model/a:0/converse"));
    }

    #[test]
    fn half_a_key_pair_is_refused() {
        assert!(
            AwsKeys::parse(r#"{"accessKeyId":"A","secretAccessKey":"S","region":"us-east-1"}"#)
                .is_some()
        );
        assert!(AwsKeys::parse(r#"{"accessKeyId":"A"}"#).is_none());
        assert!(AwsKeys::parse(r#"{"accessKeyId":"A\r\nB","secretAccessKey":"S"}"#).is_none());
        assert!(AwsKeys::parse("{").is_none());
    }
}

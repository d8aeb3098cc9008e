use super::*;
use crate::registry::find;
use crate::url::upstream;

type Headers = Vec<(String, String)>;

fn apply(
    slug: &str,
    rest: &str,
    secret: &str,
    before: &[(&str, &str)],
) -> Result<Headers, CredentialError> {
    let spec = find(slug).expect("a slug of the table");
    let place = upstream(spec, rest, None, None, &|_| None).expect("a good path");
    let mut headers: Headers = before
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    apply_credential(
        spec,
        &Credential::new(secret),
        "POST",
        &place,
        b"{}",
        &mut headers,
        1_700_000_000,
    )?;
    Ok(headers)
}

#[test]
fn each_provider_gets_its_key_its_own_way() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str)] = &[
        ("openai", "chat/completions", "authorization", "Bearer K1"),
        ("anthropic", "v1/messages", "x-api-key", "K1"),
        ("google-ai-studio", "v1beta/models/m:generateContent", "x-goog-api-key", "K1"),
        ("google-ai-studio", "v1beta/openai/chat/completions", "authorization", "Bearer K1"),
        ("google-vertex-ai", "v1/publishers/google/models/m:generateContent", "authorization", "Bearer K1"),
        ("azure-openai", "r/d/chat/completions", "api-key", "K1"),
        ("aws-bedrock", "bedrock-runtime/us-east-1/model/m/converse", "authorization", "Bearer K1"),
        ("aws-bedrock", "bedrock-mantle/us-east-1/anthropic/v1/messages", "x-api-key", "K1"),
        ("aws-bedrock", "bedrock-mantle/us-east-1/v1/chat/completions", "authorization", "Bearer K1"),
        ("huggingface", "a/b", "authorization", "Bearer K1"),
        ("replicate", "predictions", "authorization", "Bearer K1"),
        ("groq", "chat/completions", "authorization", "Bearer K1"),
        ("mistral", "v1/chat/completions", "authorization", "Bearer K1"),
        ("cohere", "v2/chat", "authorization", "Bearer K1"),
        ("perplexity-ai", "chat/completions", "authorization", "Bearer K1"),
        ("deepseek", "chat/completions", "authorization", "Bearer K1"),
        ("deepseek", "anthropic/v1/messages", "x-api-key", "K1"),
        ("grok", "v1/chat/completions", "authorization", "Bearer K1"),
        ("cerebras", "chat/completions", "authorization", "Bearer K1"),
        ("openrouter", "chat/completions", "authorization", "Bearer K1"),
        ("fireworks", "chat/completions", "authorization", "Bearer K1"),
        ("baseten", "v1/chat/completions", "authorization", "Api-Key K1"),
        ("parallel", "v1/tasks/runs", "x-api-key", "K1"),
        ("elevenlabs", "v1/text-to-speech/v", "xi-api-key", "K1"),
        ("cartesia", "tts/bytes", "x-api-key", "K1"),
        ("deepgram", "v1/listen", "authorization", "Token K1"),
        ("fal", "fal-ai/flux", "authorization", "Key K1"),
        ("ideogram", "generate", "api-key", "K1"),
    ];
    let before = [
        ("Authorization", "Bearer caller"),
        ("X-Api-Key", "caller"),
        ("accept", "*/*"),
    ];
    for (slug, rest, name, value) in cases {
        let headers = apply(slug, rest, " K1\n", &before).expect("a usable key");
        assert!(
            headers.contains(&((*name).to_owned(), (*value).to_owned())),
            "{slug} {rest}: {headers:?}"
        );
        assert!(
            headers.contains(&("accept".to_owned(), "*/*".to_owned())),
            "{slug}"
        );
        for (kept, value) in &headers {
            let is_ours = kept == name;
            let is_credential = find(slug)
                .expect("known")
                .credential_headers
                .contains(&kept.to_lowercase().as_str());
            assert!(is_ours || !is_credential, "{slug} kept {kept}: {value}");
        }
    }
}

#[test]
fn anthropic_oauth_keys_are_bearers() {
    let headers = apply("anthropic", "v1/messages", "sk-ant-oat01-x", &[]).expect("a usable key");
    assert_eq!(
        headers,
        [(
            "authorization".to_owned(),
            "Bearer sk-ant-oat01-x".to_owned()
        )]
    );
}

#[test]
fn aws_key_pairs_sign_for_the_region_of_the_path() {
    let pair = r#"{"accessKeyId":"AKID","secretAccessKey":"S","region":"us-east-1"}"#;
    let stale = [
        ("x-amz-date", "20000101T000000Z"),
        ("content-type", "application/json"),
    ];
    let headers = apply(
        "aws-bedrock",
        "bedrock-runtime/eu-west-1/model/m%3A0/converse",
        pair,
        &stale,
    )
    .expect("a usable pair");
    let value = |name: &str| {
        let mut found = headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str());
        (found.next(), found.next())
    };
    assert_eq!(value("x-amz-date"), (Some("20231114T221320Z"), None));
    let authorization = value("authorization").0.expect("signed");
    assert!(
        authorization.contains("AKID/20231114/eu-west-1/bedrock/aws4_request"),
        "{authorization}"
    );
    assert!(
        authorization.contains("SignedHeaders=content-type;host;x-amz-date,"),
        "{authorization}"
    );
    assert_eq!(
        apply(
            "aws-bedrock",
            "bedrock-runtime/us-east-1/model/m/x",
            "{}",
            &[]
        ),
        Err(CredentialError::AwsKeys)
    );
}

#[test]
fn unusable_keys_are_refused_without_being_quoted() {
    assert_eq!(
        apply("openai", "x", "  ", &[]),
        Err(CredentialError::Empty("openai"))
    );
    let error = apply("openai", "x", "sec\r\nret: 1", &[]).expect_err("two lines");
    assert!(!error.to_string().contains("sec\r"), "{error}");
    assert_eq!(
        apply("google-vertex-ai", "v1/x", r#"{"client_email":"a"}"#, &[]),
        Err(CredentialError::NeedsExchange)
    );
    assert_eq!(format!("{:?}", Credential::new("secret")), "Credential(..)");
}

#[test]
fn presented_keys_are_found_and_placeholders_are_not() {
    let presented = |slug: &str, headers: &[(&str, &str)], query: Option<&str>| {
        let header = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        presented_credential(find(slug).expect("known"), &header, query)
            .map(|found| found.reveal().to_owned())
    };
    let some = |key: &str| Some(key.to_owned());
    assert_eq!(
        presented("openai", &[("authorization", "Bearer sk-1")], None),
        some("sk-1")
    );
    assert_eq!(
        presented("deepgram", &[("authorization", "Token d")], None),
        some("d")
    );
    assert_eq!(
        presented(
            "anthropic",
            &[("x-api-key", "a"), ("authorization", "Bearer b")],
            None
        ),
        some("a")
    );
    assert_eq!(presented("google", &[], Some("alt=sse&key=g")), some("g"));
    assert_eq!(
        presented(
            "elevenlabs",
            &[("sec-websocket-protocol", "x, xi-api-key.k")],
            None
        ),
        some("k")
    );
    assert_eq!(
        presented(
            "aws-bedrock",
            &[("authorization", "AWS4-HMAC-SHA256 Credential=A/b")],
            None
        ),
        some("AWS4-HMAC-SHA256 Credential=A/b")
    );
    for empty in [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer undefined",
        "Bearer CF_TEMP_TOKEN",
        "bearer null",
    ] {
        assert_eq!(
            presented("openai", &[("authorization", empty)], None),
            None,
            "{empty:?}"
        );
    }
    assert_eq!(presented("openai", &[], Some("key=g")), None);
}

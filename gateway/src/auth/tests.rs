use super::api_key::{TokenHash, generate};
use super::*;
use crate::config::{Secret, Timeouts};

struct Made {
    text: Secret,
    token: Token,
}

fn make(account: &str, gateway: Option<&str>, permissions: &str) -> Made {
    let text = generate();
    let token = Token {
        id: "id-1".into(),
        label: "laptop".into(),
        account: account.into(),
        gateway: gateway.map(Into::into),
        permissions: Permissions::parse(permissions).unwrap(),
        created_at_us: 0,
        hash: TokenHash::of(text.expose()),
    };
    Made { text, token }
}

fn gateway(authentication: Option<bool>) -> Gateway {
    Gateway {
        authentication,
        ..Gateway::unconfigured("acct", "gw", &Timeouts::default())
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn call(
    gateway: &Gateway,
    tokens: &TokenSet,
    pairs: &[(&'static str, &str)],
) -> Result<Caller, AuthError> {
    check(
        gateway,
        &Presented {
            headers: &headers(pairs),
            query: None,
        },
        tokens,
    )
}

#[test]
fn without_tokens_every_credential_is_accepted() {
    let none = TokenSet::default();
    for value in ["Bearer undefined", "Bearer x", "sk-1", "Bearer "] {
        let caller = call(&gateway(Some(true)), &none, &[(OWN_HEADER, value)]).unwrap();
        assert!(!caller.is_authenticated, "{value}");
    }
    assert!(call(&gateway(None), &none, &[]).is_ok());
    let default = Gateway::unconfigured("acct", "default", &Timeouts::default());
    assert!(call(&default, &none, &[]).is_ok());
    assert_eq!(
        call(&gateway(Some(true)), &none, &[]),
        Err(AuthError::Missing)
    );
}

#[test]
fn the_token_is_taken_from_every_place() {
    let made = make("acct", None, "gateway_run");
    let text = made.text.expose().to_owned();
    let tokens = TokenSet::new([made.token]);
    let closed = gateway(Some(true));
    let bearer = format!("Bearer {text}");
    for (name, value) in [
        (OWN_HEADER, &bearer),
        (OWN_HEADER, &text),
        (OWN_HEADER, &format!("bearer  {text} ")),
        ("authorization", &bearer),
        ("x-api-key", &text),
        ("x-goog-api-key", &text),
        ("api-key", &text),
        (
            "sec-websocket-protocol",
            &format!("realtime, cf-aig-authorization.{text}"),
        ),
    ] {
        let caller = call(&closed, &tokens, &[(name, value)]).unwrap();
        assert_eq!(caller.key_id.as_deref(), Some("id-1"), "{name}: {value}");
        assert_eq!((&*caller.label, caller.is_authenticated), ("laptop", true));
    }
    let query = format!("alt=sse&key={text}");
    let presented = Presented {
        headers: &HeaderMap::new(),
        query: Some(&query),
    };
    let caller = check(&closed, &presented, &tokens).unwrap();
    assert_eq!(caller.strip_query(&query), "alt=sse");
}

#[test]
fn our_token_never_travels_on() {
    let made = make("acct", None, "gateway_run");
    let text = made.text.expose();
    let bearer = format!("Bearer {text}");
    let subprotocol = format!("cf-aig-authorization.{text}, realtime");
    let stale = TokenSet::default();
    for tokens in [TokenSet::new([made.token.clone()]), stale] {
        let mut head = headers(&[
            ("authorization", &bearer),
            ("x-api-key", "sk-provider"),
            ("sec-websocket-protocol", &subprotocol),
        ]);
        let caller = check(
            &gateway(None),
            &Presented {
                headers: &head,
                query: None,
            },
            &tokens,
        )
        .unwrap();
        caller.strip_headers(&mut head);
        assert!(!head.contains_key("authorization"));
        assert_eq!(head["x-api-key"], "sk-provider");
        assert_eq!(head["sec-websocket-protocol"], "realtime");
    }
    let mut only_ours = headers(&[(
        "sec-websocket-protocol",
        &subprotocol[..subprotocol.len() - 10],
    )]);
    Caller::default().strip_headers(&mut only_ours);
    assert!(only_ours.is_empty());
}

#[test]
fn a_provider_key_is_not_a_token() {
    let made = make("acct", None, "gateway_run");
    let tokens = TokenSet::new([made.token]);
    let pairs = [("authorization", "Bearer sk-provider")];
    assert_eq!(
        call(&gateway(Some(true)), &tokens, &pairs),
        Err(AuthError::Missing)
    );
    let caller = call(&gateway(Some(false)), &tokens, &pairs).unwrap();
    assert!(!caller.is_authenticated && caller.token_headers.is_empty());
}

#[test]
fn wrong_scope_and_lesser_rights_are_refused() {
    let other = generate();
    for (made, expected) in [
        (make("acct", None, "gateway_run"), Ok(())),
        (make("*", None, "gateway_run"), Ok(())),
        (make("acct", Some("gw"), "gateway_run"), Ok(())),
        (make("other", None, "gateway_run"), Err(AuthError::Wrong)),
        (
            make("acct", Some("prod"), "gateway_run"),
            Err(AuthError::Wrong),
        ),
        (
            make("acct", None, "gateway_edit"),
            Err(AuthError::NotAllowed(Permission::GatewayRun)),
        ),
    ] {
        let text = made.text.expose().to_owned();
        let tokens = TokenSet::new([made.token]);
        let seen = call(&gateway(Some(true)), &tokens, &[(OWN_HEADER, &text)]).map(|_| ());
        assert_eq!(seen, expected);
        let unknown = call(
            &gateway(Some(true)),
            &tokens,
            &[(OWN_HEADER, other.expose())],
        );
        assert_eq!(unknown, Err(AuthError::Wrong));
        // A wrong token on an open gateway is ignored, as the original does.
        assert!(
            !call(&gateway(None), &tokens, &[(OWN_HEADER, other.expose())])
                .unwrap()
                .is_authenticated
        );
    }
}

#[test]
fn a_placeholder_beside_a_token_does_no_harm() {
    let made = make("acct", None, "gateway_run");
    let bearer = format!("Bearer {}", made.text.expose());
    let tokens = TokenSet::new([made.token]);
    let pairs = [
        (OWN_HEADER, "Bearer undefined"),
        ("authorization", &*bearer),
    ];
    assert!(
        call(&gateway(Some(true)), &tokens, &pairs)
            .unwrap()
            .is_authenticated
    );
    let only = [(OWN_HEADER, "Bearer undefined")];
    assert_eq!(
        call(&gateway(Some(true)), &tokens, &only),
        Err(AuthError::Missing)
    );
}

#[test]
fn the_rest_surface_needs_a_token_once_one_exists() {
    let made = make("acct", Some("gw"), "gateway_read");
    let bearer = format!("Bearer {}", made.text.expose());
    let tokens = TokenSet::new([made.token]);
    let head = headers(&[("authorization", &bearer)]);
    let shown = Presented {
        headers: &head,
        query: None,
    };
    let empty = HeaderMap::new();
    let nothing = Presented {
        headers: &empty,
        query: None,
    };
    let read = Permission::GatewayRead;
    assert!(check_rest(Some("acct"), &nothing, &TokenSet::default(), read).is_ok());
    assert_eq!(
        check_rest(Some("acct"), &nothing, &tokens, read),
        Err(AuthError::Missing)
    );
    assert!(check_rest(Some("acct"), &shown, &tokens, read).is_ok());
    assert_eq!(
        check_rest(Some("other"), &shown, &tokens, read),
        Err(AuthError::Wrong)
    );
    let edit = Permission::GatewayEdit;
    assert_eq!(
        check_rest(Some("acct"), &shown, &tokens, edit),
        Err(AuthError::NotAllowed(edit))
    );
    assert!(check_rest_gateway("acct", "gw", &shown, &tokens, read).is_ok());
    assert_eq!(
        check_rest_gateway("acct", "prod", &shown, &tokens, read),
        Err(AuthError::Wrong)
    );
}

#[test]
fn placeholders_count_as_absent() {
    for value in [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "bearer undefined",
        "null",
        "Bearer CF_TEMP_TOKEN",
        "xCF_TEMP_TOKENx",
    ] {
        assert!(is_placeholder(value), "{value:?}");
    }
    for value in [
        "sk-1",
        "Bearer sk-1",
        "Token t",
        "Basic dTpw",
        "undefined-behaviour",
    ] {
        assert!(!is_placeholder(value), "{value:?}");
    }
}

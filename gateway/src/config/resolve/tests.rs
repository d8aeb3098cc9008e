use super::*;
use crate::config::{GatewayLookup, Source, Technique};

fn parse(text: &str) -> Config {
    resolve(text, "test", &Environment::default()).unwrap()
}

fn error(text: &str) -> String {
    resolve(text, "test", &Environment::default())
        .unwrap_err()
        .to_string()
}

fn with_environment(text: &str, pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    resolve(text, "test", &pairs.iter().copied().collect())
}

#[test]
fn an_empty_file_works() {
    let config = parse("");
    assert_eq!(config.server.listen, "127.0.0.1:8787");
    assert_eq!(config.server.max_body_bytes, 104_857_600);
    assert_eq!(config.timeouts.first_token, None);
    assert!(config.flood.is_none() && config.redis.is_none());
    assert_eq!(
        config.engine.as_ref().unwrap().model_dir,
        PathBuf::from("./data/models")
    );
    let gateway = config.gateway("default", "default").unwrap();
    assert!(gateway.cache_ttl.is_zero() && gateway.collect_logs && gateway.rate_limit().is_none());
}

#[test]
fn nothing_larger_than_what_is_taken_is_held() {
    let config = parse("[server]\nmax_body_bytes = 1000");
    assert_eq!(config.server.max_buffered_body_bytes, 1000);
}

#[test]
fn the_design_example_is_understood() {
    let config = parse(
        r#"
        [data]
        dir = "/var/lib/gateway"
        [[gateways]]
        account = "acct"
        id = "gw"
        cache_ttl = 300
        rate_limiting_interval = 60
        rate_limiting_limit = 50
        rate_limiting_technique = "sliding"
        authentication = false
        timeouts = { idle_ms = 1000, first_token_ms = 2000 }
        [providers.openai]
        base_url = "http://127.0.0.1:9000/v1/"
        api_key = "sk-1"
        [providers.custom-foo]
        base_url = "https://foo.example"
        headers = { X-Team = "a" }
        [redis]
        url = "redis://127.0.0.1:6379"
        [engine]
        models = ["@cf/huggingfacetb/smollm2-135m-instruct"]
        "#,
    );
    let gateway = config.gateway("acct", "gw").unwrap();
    assert_eq!(gateway.rate_limit().unwrap().technique, Technique::Sliding);
    assert_eq!(gateway.timeouts.idle, Duration::from_secs(1));
    assert_eq!(gateway.timeouts.first_token, Some(Duration::from_secs(2)));
    assert_eq!(gateway.timeouts.connect, Duration::from_secs(5));
    assert!(config.gateway("acct", "default").is_ok());
    let openai = &config.providers["openai"];
    assert_eq!(openai.base_url.as_deref(), Some("http://127.0.0.1:9000/v1"));
    assert_eq!(openai.api_key.as_ref().unwrap().expose(), "sk-1");
    assert_eq!(config.providers["custom-foo"].headers[0].0, "x-team");
    assert_eq!(
        config.engine.unwrap().model_dir,
        PathBuf::from("/var/lib/gateway/models")
    );
}

#[test]
fn lookups_say_what_is_unknown() {
    let config = parse("[[gateways]]\naccount = 'acct'\nid = 'gw'");
    let look = |account: &str, id: &str| config.gateway(account, id).map(|_| ());
    assert_eq!(look("acct", "gw"), Ok(()));
    assert_eq!(look("acct", "default"), Ok(()));
    assert_eq!(look("acct", "other"), Err(GatewayLookup::UnknownGateway));
    assert_eq!(
        look("nobody", "default"),
        Err(GatewayLookup::UnknownAccount)
    );
    assert_eq!(look("a.b", "default"), Err(GatewayLookup::BadAccount));
    assert_eq!(look("", "default"), Err(GatewayLookup::BadAccount));
    let named = |id| config.gateway_if_account("nobody", id, |account| account == "nobody");
    assert_eq!(&*named("default").unwrap().account, "nobody");
    assert_eq!(named("gw").unwrap_err(), GatewayLookup::UnknownGateway);
}

#[test]
fn unknown_keys_and_wrong_types_name_path_and_line() {
    let message = error("[server]\n\nlisen = 'x'");
    assert!(
        message.starts_with("test line 3: `server.lisen`: unknown field"),
        "{message}"
    );
    let message = error("[[gateways]]\nid = 'a'\ncache_ttl = 'long'");
    assert!(
        message.contains("line 3") && message.contains("gateways[0].cache_ttl"),
        "{message}"
    );
    let message = error("[server\n");
    assert!(message.starts_with("test line 1"), "{message}");
    let message = error("[nonsense]");
    assert!(message.contains("nonsense"), "{message}");
}

#[test]
fn all_problems_are_told_at_once() {
    let message = error(
        "[server]\nlisten = 'here'\nmax_in_flight = 0\n[timeouts]\nidle_ms = 0\n\
         [providers.custom-a]\n[providers.opena]\n[providers.grok]\n[providers.xai]\n[providers.openai]\nbase_url = 'ftp://x'\n\
         [[gateways]]\nid = 'a'\n[[gateways]]\nid = 'a'",
    );
    for part in [
        "server.listen",
        "server.max_in_flight",
        "timeouts.idle_ms",
        "providers.custom-a.base_url",
        "providers.openai.base_url",
        "`providers.opena`: no provider of that name",
        "`providers.xai`: `grok` stands in the file twice",
        "gateways[1]",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn base_urls_are_plain_addresses() {
    for url in [
        "https://api.example",
        "http://127.0.0.1:1",
        "http://[::1]:8/v1/x",
    ] {
        assert!(check_base_url(url).is_ok(), "{url}");
    }
    for url in [
        "",
        "api.example",
        "/v1",
        "ftp://x",
        "https://u:p@x",
        "https://x?a=1",
        "https://x#f",
        "https://",
    ] {
        assert!(check_base_url(url).is_err(), "{url}");
    }
}

#[test]
fn the_environment_beats_the_file() {
    let config = with_environment(
        "[server]\nlisten = '127.0.0.1:1'\nmax_in_flight = 7",
        &[
            ("AI_GATEWAY_SERVER__LISTEN", "127.0.0.1:0"),
            ("AI_GATEWAY_SERVER__HTTP2", "false"),
            ("AI_GATEWAY_TIMEOUTS__IDLE_MS", "250"),
            (
                "AI_GATEWAY_PROVIDERS__GOOGLE_AI_STUDIO__BASE_URL",
                "http://127.0.0.1:9",
            ),
            ("AI_GATEWAY_TOKEN", "not an override"),
            ("UNRELATED__NAME", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:0");
    assert!(!config.server.http2);
    assert_eq!(config.timeouts.idle, Duration::from_millis(250));
    assert!(config.providers.contains_key("google-ai-studio"));
    let source = |section: &str, key: &str| {
        let is_it = |setting: &&print::Setting| setting.section == section && setting.key == key;
        config.settings().iter().find(is_it).unwrap().source
    };
    assert_eq!(source("server", "listen"), Source::Environment);
    assert_eq!(source("server", "max_in_flight"), Source::File);
    assert_eq!(source("server", "threads"), Source::Default);
}

#[test]
fn a_bad_override_names_its_variable() {
    let failed = |name: &str, value: &str| {
        with_environment("", &[(name, value)])
            .unwrap_err()
            .to_string()
    };
    assert!(failed("AI_GATEWAY_SERVER__LISTN", "x").contains("`AI_GATEWAY_SERVER__LISTN`"));
    assert!(failed("AI_GATEWAY_TIMEOUTS__IDLE_MS", "soon").contains("IDLE_MS"));
    assert!(failed("AI_GATEWAY_GATEWAYS__ID", "x").contains("GATEWAYS__ID"));
}

#[test]
fn secrets_come_from_their_place_and_stay_hidden() {
    let text = "[providers.openai]\napi_key = { env = 'KEY' }\n[providers.groq]\napi_key = 'sk-canary'\n\
                [redis]\nurl = 'redis://:sk-canary@h'";
    let config = with_environment(text, &[("KEY", "sk-canary")]).unwrap();
    assert_eq!(
        config.providers["openai"]
            .api_key
            .as_ref()
            .unwrap()
            .expose(),
        "sk-canary"
    );
    let printed = config.print_config();
    assert!(
        printed.contains(r#"api_key = { env = "KEY" }"#),
        "{printed}"
    );
    assert!(!printed.contains("canary") && !format!("{config:?}").contains("canary"));
    let message = with_environment(text, &[]).unwrap_err().to_string();
    assert!(
        message.contains("providers.openai.api_key") && message.contains("`KEY` is not set"),
        "{message}"
    );
    for bad in [
        "api_key = ['sk-canary']",
        "api_key = { env = ['sk-canary'] }",
        "api_key = 'sk-canary",
    ] {
        let message = error(&format!("[providers.openai]\n{bad}"));
        assert!(!message.contains("canary"), "{message}");
    }
}

#[test]
fn the_printed_config_is_a_config() {
    let text = "[[gateways]]\nid = 'a'\ntimeouts = { idle_ms = 5 }\n[[gateways]]\nid = 'b'\n[server]\nhttp2 = false";
    let printed = parse(text).print_config();
    let again = parse(&printed);
    assert_eq!(
        again.gateway("default", "a").unwrap().timeouts.idle,
        Duration::from_millis(5)
    );
    assert!(again.gateway("default", "b").is_ok());
    assert!(!again.server.http2);
    let listen = printed
        .lines()
        .find(|line| line.starts_with("listen"))
        .unwrap();
    assert!(listen.ends_with("# default"), "{listen}");
}

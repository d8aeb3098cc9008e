//! Path → which gateway, and what is asked of it. Knows shapes of URLs, nothing of providers' own paths.

use std::sync::Arc;

use crate::config::{Config, Gateway, GatewayLookup};
use crate::error::{GatewayError, Kind};
use crate::exchange::Incoming;

/// Where a request leads.
#[derive(Debug, Clone)]
pub struct Place {
    pub gateway: Arc<Gateway>,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `POST /v1/{account}/{gateway}`: a list of steps.
    Universal,
    /// `ANY /v1/{account}/{gateway}/{provider}/{rest}`; `rest` is still percent-encoded.
    Provider { slug: String, rest: String },
    /// `POST /client/v4/accounts/{account}/ai/{rest}`: the engine, on the REST host.
    RestAi { rest: String },
    /// `GET /client/v4/accounts/{account}/ai/{rest}`: what models and tasks there are.
    RestModels { rest: String },
    /// `/client/v4/accounts/{account}/ai/finetunes{rest}`; still percent-encoded.
    RestFinetunes { rest: String },
    /// `/client/v4/accounts/{account}/ai-gateway/gateways/{gateway}/logs{rest}`.
    RestLogs { rest: String },
}

impl What {
    /// The REST host speaks another error envelope than the data plane.
    pub fn is_rest(&self) -> bool {
        !matches!(self, What::Universal | What::Provider { .. })
    }
}

/// A fault, and which envelope it is told in.
pub struct Lost {
    pub error: GatewayError,
    pub is_rest: bool,
}

pub fn find(
    config: &Config,
    accounts: &dyn Fn(&str) -> bool,
    incoming: &Incoming,
) -> Result<Place, Lost> {
    let path = incoming.path.as_str();
    if let Some(rest) = path.strip_prefix("/v1/") {
        return data_plane(config, accounts, rest).map_err(|error| Lost {
            error,
            is_rest: false,
        });
    }
    if let Some(rest) = path.strip_prefix("/client/v4/") {
        return rest_host(config, accounts, incoming, rest).map_err(|error| Lost {
            error,
            is_rest: true,
        });
    }
    let hint = "use /v1/{account}/{gateway}/{provider}/..., for example /v1/default/default/openai/chat/completions";
    Err(Lost {
        error: GatewayError::new(
            Kind::NoRoute,
            format!("nothing is served at `{}`; {hint}", shown(path)),
        ),
        is_rest: false,
    })
}

fn data_plane(
    config: &Config,
    accounts: &dyn Fn(&str) -> bool,
    rest: &str,
) -> Result<Place, GatewayError> {
    let (account, rest) = cut(rest);
    let (gateway, rest) = cut(rest);
    let gateway = look_up(config, accounts, account, gateway)?;
    let (slug, rest) = cut(rest);
    let what = if slug.is_empty() && rest.is_empty() {
        What::Universal
    } else {
        What::Provider {
            slug: slug.to_owned(),
            rest: rest.to_owned(),
        }
    };
    Ok(Place { gateway, what })
}

fn rest_host(
    config: &Config,
    accounts: &dyn Fn(&str) -> bool,
    incoming: &Incoming,
    rest: &str,
) -> Result<Place, GatewayError> {
    let no_route = || {
        let message = format!("No route for that URI: `{}`", shown(&incoming.path));
        GatewayError::new(Kind::NoRoute, message)
    };
    let rest = rest.strip_prefix("accounts/").ok_or_else(no_route)?;
    let (account, rest) = cut(rest);
    if let Some(ai) = rest.strip_prefix("ai/") {
        let id = incoming.header("cf-aig-gateway-id").unwrap_or("default");
        let gateway = look_up(config, accounts, account, id)?;
        let rest = ai.trim_end_matches('/');
        let what = match rest {
            "models/search" | "models/schema" | "tasks/search" | "authors/search" => {
                What::RestModels {
                    rest: rest.to_owned(),
                }
            }
            _ if rest == "finetunes" || rest.starts_with("finetunes/") => What::RestFinetunes {
                rest: rest.to_owned(),
            },
            _ => What::RestAi {
                rest: ai.to_owned(),
            },
        };
        return Ok(Place { gateway, what });
    }
    if let Some(rest) = rest.strip_prefix("ai-gateway/gateways/") {
        let (id, rest) = cut(rest);
        if let Some(logs) = rest.strip_prefix("logs") {
            let gateway = look_up(config, accounts, account, id)?;
            return Ok(Place {
                gateway,
                what: What::RestLogs {
                    rest: logs.trim_matches('/').to_owned(),
                },
            });
        }
    }
    Err(no_route())
}

fn look_up(
    config: &Config,
    accounts: &dyn Fn(&str) -> bool,
    account: &str,
    id: &str,
) -> Result<Arc<Gateway>, GatewayError> {
    config.gateway_if_account(account, id, accounts).map_err(|lookup| match lookup {
        GatewayLookup::BadAccount => GatewayError::new(
            Kind::BadRequest,
            format!("account `{}` is not valid: 1 to 64 of A-Z a-z 0-9 _ -", shown(account)),
        ),
        GatewayLookup::UnknownAccount => GatewayError::new(
            Kind::UnknownGateway,
            format!("account `{account}` does not exist: name it in a [[gateways]] entry, or use `default`"),
        ),
        GatewayLookup::UnknownGateway => GatewayError::new(
            Kind::UnknownGateway,
            format!("gateway `{}` does not exist in account `{account}`: add a [[gateways]] entry, or use `default`", shown(id)),
        ),
    })
}

/// The first segment and what follows its slash.
fn cut(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

/// A stranger's text, short and printable, for a message.
pub fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(80)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().count() > 80 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_cut_at_single_slashes_only() {
        assert_eq!(cut("a/b/c"), ("a", "b/c"));
        assert_eq!(cut("a"), ("a", ""));
        assert_eq!(cut("a//c"), ("a", "/c"));
    }

    #[test]
    fn a_strangers_text_is_shortened_and_made_printable() {
        assert_eq!(shown("a\nb"), "a?b");
        assert!(shown(&"x".repeat(200)).chars().count() <= 81);
    }
}

//! Every fault the gateway itself can answer with, in one table.
//!
//! A provider's own error is never wrapped: it goes through as it came. What is here is only what
//! *we* say, in the envelope that clients of the original already parse. The codes are a contract:
//! a code keeps its meaning for ever.

use serde_json::json;

/// Whose doing it was. Operators alert on `Gateway`, never on `Client`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Client,
    Gateway,
    Upstream,
}

/// A fault of ours, with what the caller reads and what the operator reads.
#[derive(Debug, Clone)]
pub struct GatewayError {
    pub kind: Kind,
    /// What the caller reads: says what to change.
    pub message: String,
    /// What the operator reads; never sent. Holds no credential and no prompt.
    pub private: String,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u64>,
}

macro_rules! kinds {
    ($($name:ident, $slug:literal, $status:literal, $code:literal, $fault:ident, $text:literal;)*) => {
        /// The rows of the table. `slug` is what rows and metrics call it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind { $($name),* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];
            pub fn slug(self) -> &'static str { match self { $(Kind::$name => $slug),* } }
            /// HTTP status, before `server.cloudflare_statuses` has its say.
            pub fn status(self) -> u16 { match self { $(Kind::$name => $status),* } }
            /// The number clients of the original test for.
            pub fn code(self) -> u32 { match self { $(Kind::$name => $code),* } }
            pub fn fault(self) -> Fault { match self { $(Kind::$name => Fault::$fault),* } }
            pub fn description(self) -> &'static str { match self { $(Kind::$name => $text),* } }
        }
    };
}

// name, slug, status, code, fault, what it means
kinds! {
    UnknownGateway,    "unknown_gateway",    400, 2001, Client,   "the gateway named in the path does not exist";
    Internal,          "internal",           500, 2002, Gateway,  "the gateway failed by itself";
    RateLimited,       "rate_limited",       429, 2003, Client,   "the gateway's request limit is used up for now";
    Flooding,          "flooding",           429, 2003, Client,   "too many requests from this address";
    UpstreamConnect,   "upstream_connect",   502, 2005, Upstream, "the provider could not be reached";
    UpstreamReset,     "upstream_reset",     502, 2005, Upstream, "the provider closed the connection before it answered";
    UpstreamTimeout,   "upstream_timeout",   504, 2005, Upstream, "the provider did not answer in time";
    FirstTokenTimeout, "first_token_timeout",504, 2005, Upstream, "the provider began to answer but sent no content in time";
    UpstreamCut,       "upstream_cut",       502, 2005, Upstream, "the provider's answer broke off";
    UpstreamIdle,      "upstream_idle",      504, 2005, Upstream, "the provider's answer stalled";
    UpstreamOverloaded,"upstream_overloaded",502, 2005, Upstream, "the provider began its answer with an error";
    UnknownProvider,   "unknown_provider",   400, 2008, Client,   "no provider of that name";
    NotYet,            "not_yet",            501, 2008, Client,   "this part of the wire format is not served yet";
    Unauthorized,      "unauthorized",       401, 2009, Client,   "the gateway token is missing or wrong";
    Forbidden,         "forbidden",          403, 2036, Client,   "the token does not allow this";
    Busy,              "busy",               503, 2002, Gateway,  "too many requests are in flight";
    BadRequest,        "bad_request",        400, 7001, Client,   "the request is not valid";
    BodyTooLarge,      "body_too_large",     413, 7001, Client,   "the request body is larger than this gateway takes";
    BodyTimeout,       "body_timeout",       408, 7001, Client,   "the request body did not arrive in time";
    NoRoute,           "no_route",           404, 7000, Client,   "nothing is served at that path";
    MethodNotAllowed,  "method_not_allowed", 405, 7001, Client,   "the path is served with another method";
    NotFound,          "not_found",          404, 7002, Client,   "no such object";
    UnknownModel,      "unknown_model",      400, 5007, Client,   "the engine offers no model of that name";
    NoAdapters,        "no_adapters",        405, 5005, Client,   "the model takes no adapters";
    UnknownFinetune,   "unknown_finetune",   404, 3037, Client,   "no fine-tune of that id or name for this model";
    FinetuneRefused,   "finetune_refused",   400, 5006, Client,   "the files are no adapter for the model";
    ClientGone,        "client_gone",        499, 0,    Client,   "the caller left before the answer was complete";
}

impl GatewayError {
    pub fn new(kind: Kind, message: impl Into<String>) -> GatewayError {
        GatewayError {
            kind,
            message: message.into(),
            private: String::new(),
            retry_after_s: None,
        }
    }

    pub fn private(mut self, cause: impl std::fmt::Display) -> GatewayError {
        self.private = cause.to_string();
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> GatewayError {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The status on the wire. SDKs never retry the 400 that the original answers when a provider
    /// fails, so ours are 502 and 504 unless the operator asks for the original's.
    pub fn status(&self, cloudflare_statuses: bool) -> u16 {
        match self.kind.code() {
            2005 if cloudflare_statuses => 400,
            _ => self.kind.status(),
        }
    }

    /// The data plane's envelope: the array is called `error`, not `errors`.
    pub fn envelope(&self, cloudflare_statuses: bool) -> Vec<u8> {
        let status = self.status(cloudflare_statuses);
        json!({
            "success": false,
            "result": [],
            "messages": [],
            "error": [{"code": self.kind.code(), "message": self.message}],
            "name": "AiGatewayError",
            "httpCode": status,
            "internalCode": self.kind.code(),
            "message": self.message,
            "description": self.kind.description(),
        })
        .to_string()
        .into_bytes()
    }

    /// The REST surface's envelope (`/client/v4`): `errors`, and `result` is null.
    pub fn rest_envelope(&self) -> Vec<u8> {
        let code = match self.kind {
            Kind::Unauthorized | Kind::Forbidden => 10000,
            kind => kind.code(),
        };
        json!({
            "result": null,
            "success": false,
            "errors": [{"code": code, "message": self.message}],
            "messages": [],
        })
        .to_string()
        .into_bytes()
    }
}

impl std::fmt::Display for GatewayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.slug(), self.message)?;
        if !self.private.is_empty() {
            write!(f, " ({})", self.private)?;
        }
        Ok(())
    }
}

impl std::error::Error for GatewayError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_failure_is_502_unless_the_originals_statuses_are_asked_for() {
        let error = GatewayError::new(Kind::UpstreamConnect, "connection refused");
        assert_eq!(error.status(false), 502);
        assert_eq!(error.status(true), 400);
        let text = String::from_utf8(error.envelope(false)).expect("json is utf-8");
        assert!(
            text.contains(r#""error":[{"code":2005,"message":"connection refused"}]"#),
            "{text}"
        );
        assert!(text.contains(r#""httpCode":502"#), "{text}");
    }

    #[test]
    fn slugs_are_unique() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|k| k.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }

    #[test]
    fn the_private_cause_never_reaches_the_caller() {
        let error =
            GatewayError::new(Kind::Internal, "internal server error").private("disk on fire");
        assert!(!String::from_utf8_lossy(&error.envelope(false)).contains("disk"));
        assert!(error.to_string().contains("disk on fire"));
    }
}

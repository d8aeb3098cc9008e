//! Realtime sockets: the one thing that takes the framework's own upstream path.
//!
//! A socket is planned like any request (gateway, caller, provider, headers) and then passed
//! through frame by frame; its record tells when it opened, when it ended and how much went each way.

use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{HeaderName, SEC_WEBSOCKET_PROTOCOL};
use pingora::Error;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;

use crate::app::App;
use crate::attempt;
use crate::auth::{self, Caller};
use crate::backend::http_client::{self, Timeouts};
use crate::config::Config;
use crate::error::{GatewayError, Kind};
use crate::exchange::{Exchange, Ids, Incoming};
use crate::identify::Place;
use crate::limit::InFlightPermit;
use crate::pipeline;
use crate::route::{self, Ground, PlanStep, RemoteTarget, StepBody, Target};
use crate::trace::{Decision, RequestTrace};
use std::sync::Arc;

/// Frames may be far apart on a socket that is only listened to.
const IDLE: Duration = Duration::from_secs(3600);

/// A planned socket, carried by the framework until it ends.
pub struct Socket {
    app: Arc<App>,
    config: Arc<Config>,
    incoming: Incoming,
    ids: Ids,
    place: Place,
    caller: Caller,
    step: PlanStep,
    attempt: crate::trace::Attempt,
    error: Option<Kind>,
    /// An open socket is a request in flight.
    _permit: InFlightPermit,
}

impl Socket {
    pub fn plan(
        exchange: &Exchange<'_>,
        permit: InFlightPermit,
        incoming: Incoming,
        slug: &str,
        rest: &str,
    ) -> Result<Socket, GatewayError> {
        let ground = Ground {
            config: exchange.config,
            gateway: &exchange.place.gateway,
            caller: exchange.caller,
            incoming: &incoming,
            has_engine: false,
        };
        let mut plan = route::single(ground, slug, rest, StepBody::Held(bytes::Bytes::new()))?;
        let step = plan.steps.remove(0);
        if matches!(step.target, Target::Local(_)) {
            return Err(GatewayError::new(
                Kind::NotYet,
                "the embedded engine serves no WebSockets yet",
            ));
        }
        let attempt = attempt::begin(&step, 1);
        Ok(Socket {
            _permit: permit,
            app: exchange.app.clone(),
            config: exchange.config.clone(),
            ids: exchange.ids.clone(),
            place: exchange.place.clone(),
            caller: exchange.caller.clone(),
            incoming,
            step,
            attempt,
            error: None,
        })
    }

    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    fn target(&self) -> &RemoteTarget {
        match &self.step.target {
            Target::Remote(target) => target,
            Target::Local(_) => unreachable!("planning refuses local sockets"),
        }
    }

    pub async fn peer(&mut self) -> pingora::Result<Box<HttpPeer>> {
        let tries = &self.step.tries;
        let timeouts = Timeouts {
            connect: tries.connect,
            head: tries.head,
            idle: IDLE,
        };
        let mut peers = self
            .app
            .http
            .peers(&self.target().upstream, timeouts, true)
            .await
            .map_err(|broken| Error::explain(pingora::ErrorType::ConnectError, broken.cause))?;
        // The framework connects once; its first address is the one a socket gets.
        let peer = peers.next();
        peer.map(Box::new).ok_or_else(|| {
            Error::explain(
                pingora::ErrorType::ConnectError,
                "the provider has no address",
            )
        })
    }

    /// The request as the provider gets it: its path, its headers, and the handshake's own.
    pub fn rewrite(&self, request: &mut RequestHeader) -> pingora::Result<()> {
        let target = self.target();
        let mut handshake: HeaderMap = request
            .headers
            .iter()
            .filter(|(name, _)| is_handshake(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let names: Vec<HeaderName> = request.headers.keys().cloned().collect();
        for name in names {
            request.remove_header(&name);
        }
        request.set_raw_path(target.upstream.path_and_query.as_bytes())?;
        request.insert_header("host", http_client::authority(&target.upstream))?;
        for (name, value) in &target.headers {
            if name != http::header::CONTENT_LENGTH && !is_handshake(name) {
                request.append_header(name.clone(), value)?;
            }
        }
        // Our own subprotocol carries the gateway token, which stops here.
        self.caller.strip_headers(&mut handshake);
        for (name, value) in &handshake {
            request.append_header(name.clone(), value)?;
        }
        Ok(())
    }

    /// The provider's answer to the handshake, on its way to the caller.
    pub fn answer(&mut self, response: &mut ResponseHeader) -> pingora::Result<()> {
        self.attempt.status = response.status.as_u16();
        self.attempt.first_byte = Some(Instant::now());
        // A browser drops a socket whose offered subprotocols were all passed over.
        if response.status.as_u16() == 101
            && !response.headers.contains_key(SEC_WEBSOCKET_PROTOCOL)
            && let Some(protocol) = auth::token_subprotocol(&self.incoming.headers)
        {
            response.insert_header("sec-websocket-protocol", protocol.to_owned())?;
        }
        response.insert_header("cf-aig-step", "0")?;
        response.insert_header("cf-aig-log-id", self.attempt.id.clone())?;
        response.insert_header("cf-aig-event-id", self.ids.event.clone())?;
        response.insert_header("cf-aig-request-id", self.ids.request.clone())?;
        Ok(())
    }

    pub fn failed(&mut self, error: &GatewayError) {
        self.error = Some(error.kind);
    }

    pub fn record(mut self, session: &Session) {
        self.attempt.ended = Instant::now();
        self.attempt.error = self.error;
        self.attempt.decision = if self.error.is_some() {
            Decision::Failed
        } else {
            Decision::Direct
        };
        self.attempt.request_bytes = session.body_bytes_read() as u64;
        self.attempt.response_bytes = session.body_bytes_sent() as u64;
        let mut trace = RequestTrace {
            decision: Some(self.attempt.decision),
            error: self.error,
            status: session
                .response_written()
                .map_or(0, |response| response.status.as_u16()),
            first_byte: self.attempt.first_byte,
            answered: self.error.is_none().then_some(0),
            ..RequestTrace::default()
        };
        trace.attempts.push(self.attempt);
        let exchange = Exchange {
            app: &self.app,
            config: &self.config,
            incoming: &self.incoming,
            ids: &self.ids,
            place: &self.place,
            caller: &self.caller,
        };
        pipeline::write_record(&exchange, trace);
    }
}

fn is_handshake(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "upgrade"
            | "sec-websocket-key"
            | "sec-websocket-version"
            | "sec-websocket-protocol"
            | "sec-websocket-extensions"
    )
}

//! The shell around the pipeline: pingora's `ProxyHttp`.
//!
//! All HTTP is answered inside `request_filter` by `pipeline::serve`; the framework's own upstream
//! path is taken only for WebSocket upgrades (`websocket`). Reason: that path replays request
//! bodies only up to 64 KiB, and holds no answer back to try another target.

pub mod intake;
pub mod listen;
pub mod origin;
pub mod shutdown;
pub mod websocket;
pub mod writer;

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use crate::app::App;
use crate::error::{GatewayError, Kind};
use crate::exchange::Ids;
use crate::pipeline::{self, Served};
use shutdown::InFlight;
use websocket::Socket;
use writer::ReplyWriter;

/// The per-request context that pingora carries for us. Only a WebSocket needs one.
#[derive(Default)]
pub struct Context {
    socket: Option<Socket>,
    /// The end of the process waits for sockets too.
    in_flight: Option<InFlight>,
}

pub struct Door {
    pub app: Arc<App>,
}

#[async_trait]
impl ProxyHttp for Door {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        let downstream = session.as_downstream_mut();
        // A pipelined next request must not be mistaken for a caller who left.
        downstream.set_pipelining_enabled(true);
        let in_flight = self.app.drain.enter();
        let incoming = match intake::head(downstream) {
            Ok(incoming) => incoming,
            Err(error) => {
                let ids = Ids::new(&downstream.req_header().headers);
                let mut writer = ReplyWriter::new(downstream);
                return match writer::refuse(&mut writer, &ids, &error, false, Vec::new()).await {
                    Ok(_) => Ok(true),
                    Err(_) => Err(closed()),
                };
            }
        };
        match pipeline::serve(&self.app, downstream, incoming).await {
            Served::Sent => Ok(true),
            Served::Aborted => Err(closed()),
            Served::Upgrade(socket) => {
                ctx.socket = Some(*socket);
                ctx.in_flight = Some(in_flight);
                Ok(false)
            }
        }
    }

    /// Called when the head of a request was read, with what `listen` sent along.
    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        _ctx: &mut Context,
        sent: Box<dyn Any + Send + Sync>,
    ) {
        if let Ok(watch) = sent.downcast::<listen::HeadWatch>() {
            watch.arrived();
        }
    }

    fn persist_connection_context(
        &self,
        _session: &Session,
        _ctx: &Context,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(listen::Served))
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        match ctx.socket.as_mut() {
            Some(socket) => socket.peer().await,
            None => Err(Error::explain(
                ErrorType::InternalError,
                "only an upgrade takes the framework's path",
            )),
        }
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut pingora::http::RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        match ctx.socket.as_ref() {
            Some(socket) => socket.rewrite(request),
            None => Ok(()),
        }
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut pingora::http::ResponseHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        match ctx.socket.as_mut() {
            Some(socket) => socket.answer(response),
            None => Ok(()),
        }
    }

    /// A failed upgrade is answered here; a reply of the pipeline that was aborted is left as cut
    /// as it is, because a second head would repair what must look broken.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let Some(socket) = ctx.socket.as_mut() else {
            return FailToProxy {
                error_code: 0,
                can_reuse_downstream: false,
            };
        };
        let fault = GatewayError::new(
            Kind::UpstreamConnect,
            "the provider did not accept the WebSocket",
        )
        .private(error);
        socket.failed(&fault);
        let status = fault.status(self.app.live.load().server.cloudflare_statuses);
        if session.response_written().is_none() {
            let ids = socket.ids().clone();
            let mut writer = ReplyWriter::new(session.as_downstream_mut());
            if writer::refuse(&mut writer, &ids, &fault, false, Vec::new())
                .await
                .is_err()
            {
                tracing::debug!("the caller left before the refusal of its upgrade");
            }
        }
        FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        if let Some(socket) = ctx.socket.take() {
            socket.record(session);
        }
    }
}

/// The error that makes the framework drop the connection without a word.
fn closed() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the answer was aborted")
}

//! The operator's listener: health, readiness, metrics. Answers are small and made in memory.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::json;

use crate::app::App;

pub struct Admin {
    pub app: Arc<App>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let is_loopback = crate::config::is_loopback(&self.app.live.load().admin.listen);
        if is_loopback && crate::door::origin::foreign(&request.headers).is_some() {
            return reply(
                StatusCode::FORBIDDEN,
                "text/plain",
                "this host name is not served here\n".into(),
            );
        }
        match request.uri.path() {
            // Alive: this process answers.
            "/healthz" => reply(StatusCode::OK, "text/plain", "ok\n".into()),
            "/readyz" => ready(&self.app).await,
            "/metrics" => reply(
                StatusCode::OK,
                "text/plain; version=0.0.4",
                self.app.render_metrics(),
            ),
            _ => reply(
                StatusCode::NOT_FOUND,
                "text/plain",
                "try /healthz, /readyz or /metrics\n".into(),
            ),
        }
    }
}

/// Ready: requests would be served. A log store that is down, or a bad new configuration file, is
/// told but does not make us unready: neither stops a request.
async fn ready(app: &App) -> Response<Vec<u8>> {
    let draining = app.is_draining();
    let store = app
        .store
        .health()
        .await
        .err()
        .map(|error| error.to_string());
    let body = json!({
        "ready": !draining,
        "draining": draining,
        "config_error": app.live.last_error(),
        "log_store_error": store,
        "in_flight": app.drain.in_flight(),
    });
    let status = if draining {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    reply(status, "application/json", format!("{body}\n"))
}

fn reply(status: StatusCode, content_type: &str, body: String) -> Response<Vec<u8>> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("content-length", body.len())
        .body(body.into_bytes())
        .expect("a status, two plain headers and bytes are a response")
}

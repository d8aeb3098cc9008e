//! A bare pingora pass-through: one worker thread, forwards and nothing else. The floor for anything
//! built on pingora's own proxy.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

struct PassThrough {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut (),
    ) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// `load passthrough LISTEN UPSTREAM`: serves until a signal ends it.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let [listen, upstream] = arguments else {
        return Err("usage: load passthrough LISTEN UPSTREAM".to_owned());
    };
    let upstream = upstream
        .parse()
        .map_err(|_| format!("`{upstream}` is no address"))?;
    let config = ServerConf {
        threads: 1,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, config);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, PassThrough { upstream });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}

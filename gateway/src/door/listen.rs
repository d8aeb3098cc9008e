//! Listeners: bound here (so that port 0 works and a running process can hand them over), served by
//! pingora.

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::{HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ShutdownWatch};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::oneshot;

use super::Door;
use super::shutdown::Drain;
use crate::admin::Admin;
use crate::app::App;
use crate::config::Tls;

/// Connections the kernel queues for us while we are busy; past it callers are refused.
const BACKLOG: u32 = 4096;

/// A bound listener and the address it really has.
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    pub address: SocketAddr,
    fd: i32,
}

/// Both listeners of the process.
#[derive(Debug, Clone, Copy)]
pub struct Listeners {
    pub server: Listener,
    pub admin: Listener,
}

/// How long a new process waits for the running one to hand over.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(60);

/// Names in the hand-over, each followed by `@` and the address.
const SERVER: &str = "server";
const ADMIN: &str = "admin";

impl Listeners {
    pub fn bind(server: &str, admin: &str) -> anyhow::Result<Listeners> {
        Ok(Listeners {
            server: bind(server, "server.listen")?,
            admin: bind(admin, "admin.listen")?,
        })
    }

    /// Takes over the listeners of the running process. Blocks until it sends them.
    pub fn take_over(socket: &Path) -> anyhow::Result<Listeners> {
        let socket = socket
            .to_str()
            .ok_or_else(|| anyhow!("the upgrade socket's path is not UTF-8"))?;
        let mut fds = Fds::new();
        let asked = Instant::now();
        // The framework waits for some seconds only, and a person types the signal.
        while let Err(error) = fds.get_from_sock(socket) {
            if asked.elapsed() >= TAKE_OVER_PATIENCE {
                return Err(error).with_context(|| {
                    format!("no running process handed over its listeners at {socket}; send it SIGQUIT after this one has started")
                });
            }
        }
        let (names, numbers) = fds.serialize();
        let claim = |name: &str| -> anyhow::Result<Listener> {
            let found = names.iter().zip(&numbers).find_map(|(key, fd)| {
                let (key, address) = key.split_once('@')?;
                (key == name).then_some((address, *fd))
            });
            let (address, fd) =
                found.ok_or_else(|| anyhow!("the running process sent no `{name}` listener"))?;
            Ok(Listener {
                address: address.parse()?,
                fd,
            })
        };
        Ok(Listeners {
            server: claim(SERVER)?,
            admin: claim(ADMIN)?,
        })
    }

    /// Sends the listeners to the process that waits at `socket`. Blocking.
    pub fn hand_over(&self, socket: &Path) -> anyhow::Result<()> {
        let socket = socket
            .to_str()
            .ok_or_else(|| anyhow!("the upgrade socket's path is not UTF-8"))?;
        let mut fds = Fds::new();
        fds.add(format!("{SERVER}@{}", self.server.address), self.server.fd);
        fds.add(format!("{ADMIN}@{}", self.admin.address), self.admin.fd);
        fds.send_to_sock(socket)
            .with_context(|| format!("no new process waits at {socket}"))?;
        Ok(())
    }
}

fn bind(listen: &str, key: &str) -> anyhow::Result<Listener> {
    let addresses: Vec<SocketAddr> = std::net::ToSocketAddrs::to_socket_addrs(listen)
        .with_context(|| format!("{key} = `{listen}` is not an address with a port"))?
        .collect();
    let address = addresses
        .first()
        .ok_or_else(|| anyhow!("{key} = `{listen}` names no address"))?;
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(*address).with_context(|| {
        format!("{key} = `{listen}` cannot be bound; is another process listening there? port 0 picks a free one")
    })?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok(Listener {
        address,
        fd: listener.into_std()?.into_raw_fd(),
    })
}

/// Starts both services on the current runtime. They stop accepting when `shutdown` says so.
pub fn start(
    app: &Arc<App>,
    listeners: Listeners,
    shutdown: ShutdownWatch,
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let config = app.live.load();
    let server_conf = Arc::new(ServerConf {
        max_retries: 1,
        ..ServerConf::default()
    });
    let proxy = http_proxy(&server_conf, Door { app: app.clone() });
    let shell = Shell {
        proxy: Arc::new(proxy),
        head_timeout: config.server.header_read_timeout,
    };
    let shell = Counted {
        shell: Arc::new(shell),
        connections: app.connections.clone(),
    };
    let mut door = Service::new("server".into(), shell);
    let address = listeners.server.address.to_string();
    match &config.server.tls {
        None => door.add_tcp(&address),
        Some(tls) => {
            let path = |path: &Path| {
                path.to_str()
                    .map(str::to_owned)
                    .ok_or_else(|| anyhow!("a TLS path is not UTF-8"))
            };
            let (cert, key) = (path(&tls.cert)?, path(&tls.key)?);
            let mut settings = TlsSettings::intermediate(&cert, &key)
                .map_err(|error| anyhow!("the TLS files cannot be used: {error}"))?;
            if config.server.http2 {
                settings.enable_h2();
            }
            door.add_tls_with_settings(&address, None, settings);
        }
    }
    let mut admin = Service::new("admin".into(), Admin { app: app.clone() });
    admin.add_tcp(&listeners.admin.address.to_string());
    Ok(vec![
        spawn(door, listeners.server, shutdown.clone()),
        spawn(admin, listeners.admin, shutdown),
    ])
}

/// Whether the files are a certificate chain and its key. The framework reads them itself, and panics
/// when they are not.
pub fn check_tls(tls: &Tls) -> anyhow::Result<()> {
    let (cert, key) = (tls.cert.display(), tls.key.display());
    let chain = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("server.tls.cert = `{cert}` cannot be read as PEM"))?;
    ensure!(
        !chain.is_empty(),
        "server.tls.cert = `{cert}` holds no certificate"
    );
    let private = PrivateKeyDer::from_pem_file(&tls.key).with_context(|| {
        format!("server.tls.key = `{key}` cannot be read as a private key in PEM")
    })?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("`{cert}` and `{key}` do not belong together"))?;
    Ok(())
}

fn spawn<A>(
    mut service: Service<A>,
    listener: Listener,
    shutdown: ShutdownWatch,
) -> tokio::task::JoinHandle<()>
where
    A: ServerApp + Send + Sync + 'static,
{
    let mut fds = Fds::new();
    fds.add(listener.address.to_string(), listener.fd);
    let fds = Arc::new(Mutex::new(fds));
    tokio::spawn(async move { service.start_service(Some(fds), shutdown, 1).await })
}

/// How long connections accepted before the end may take to bring their first request. Without it a
/// caller who came at the last moment would be dropped without an answer.
const LAST_ARRIVALS: Duration = Duration::from_millis(300);

/// The shell with its open connections counted, so that the end can wait for the last of them.
struct Counted {
    shell: Arc<Shell>,
    connections: Arc<Drain>,
}

#[async_trait]
impl ServerApp for Counted {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let _open = self.connections.enter();
        self.shell.process_new(stream, shutdown).await
    }

    /// Called when nothing is accepted any more.
    async fn cleanup(&self) {
        tokio::time::sleep(LAST_ARRIVALS).await;
        self.shell.cleanup().await;
    }
}

/// The proxy, with a bound on how long a request's head may take to arrive.
struct Shell {
    proxy: Arc<HttpProxy<Door>>,
    head_timeout: Duration,
}

/// Longest an idle connection is kept for its next request, the framework's own default.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Travels with a connection into the proxy, which hands it to the door once the head is read.
pub struct HeadWatch(oneshot::Sender<()>);

impl HeadWatch {
    pub fn arrived(self) {
        if self.0.send(()).is_err() {
            tracing::debug!("a head arrived as its time ran out");
        }
    }
}

/// Marks a connection that has served a request, for the next one on it.
pub struct Served;

#[async_trait]
impl HttpServerApp for Shell {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.is_http2() {
            return self.proxy.process_new_http(session, shutdown).await;
        }
        let is_reused = session.take_connection_user_context().is_some();
        let patience = if is_reused {
            KEEP_ALIVE + self.head_timeout
        } else {
            self.head_timeout
        };
        let (watch, arrived) = oneshot::channel();
        session.set_connection_user_context(Some(Box::new(HeadWatch(watch))));
        let too_late = async {
            if tokio::time::timeout(patience, arrived).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            reused = self.proxy.process_new_http(session, shutdown) => reused,
            () = too_late => None,
        }
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

//! A wire between the gateway and a log store that a test can break: the store itself goes on, as a
//! machine does whose network, proxy or process in front is gone.

use crate::http::find;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Whole,
    /// Nobody listens.
    Refused,
    /// Taken, and never answered.
    Silent,
    /// The store does what it is asked, and its answer is lost: the asker cannot know.
    AnswersLost,
}

type Order = (Wire, oneshot::Sender<()>);

/// A port that stands for the store's. Dropping it ends everything on it.
pub struct BreakableWire {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    lost_inserts: Arc<AtomicUsize>,
    running: JoinHandle<()>,
}

impl Drop for BreakableWire {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl BreakableWire {
    /// A wire to `store` in this state. Without a store it can only be broken.
    pub async fn start(store: Option<SocketAddr>, wire: Wire) -> BreakableWire {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (orders, orders_in) = mpsc::channel(1);
        let lost_inserts = Arc::new(AtomicUsize::new(0));
        let counter = lost_inserts.clone();
        let run = Run {
            address,
            store,
            wire,
            lost_inserts: counter,
        };
        BreakableWire {
            address,
            orders,
            lost_inserts,
            running: tokio::spawn(run.until_dropped(listener, orders_in)),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the state, and breaks the connections that stand, as a dying process does.
    pub async fn becomes(&self, wire: Wire) {
        let (done, is_done) = oneshot::channel();
        self.orders.send((wire, done)).await.expect("the wire runs");
        is_done.await.expect("the wire runs");
    }

    /// Inserts the store took and nobody heard of.
    pub fn lost_inserts(&self) -> usize {
        self.lost_inserts.load(Ordering::Acquire)
    }
}

struct Run {
    address: SocketAddr,
    store: Option<SocketAddr>,
    wire: Wire,
    lost_inserts: Arc<AtomicUsize>,
}

impl Run {
    async fn until_dropped(mut self, listener: TcpListener, mut orders: mpsc::Receiver<Order>) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some((wire, done)) = order else { return };
                    connections.shutdown().await;
                    self.wire = wire;
                    if wire == Wire::Refused {
                        listener = None;
                    } else if listener.is_none() {
                        listener = Some(TcpListener::bind(self.address).await.expect("the port is still ours"));
                    }
                    // The test may have gone on to something else.
                    let _ = done.send(());
                }
                Some(stream) = accept(&listener) => {
                    connections.spawn(carry(stream, self.store, self.wire, self.lost_inserts.clone()));
                }
            }
        }
    }
}

async fn accept(listener: &Option<TcpListener>) -> Option<TcpStream> {
    let (stream, _) = listener.as_ref()?.accept().await.ok()?;
    Some(stream)
}

async fn carry(
    mut stream: TcpStream,
    store: Option<SocketAddr>,
    wire: Wire,
    lost_inserts: Arc<AtomicUsize>,
) {
    let Some(store) = store.filter(|_| wire != Wire::Silent) else {
        let mut unread = [0; 4096];
        while let Ok(1..) = stream.read(&mut unread).await {}
        return;
    };
    let Ok(mut behind) = TcpStream::connect(store).await else {
        return;
    };
    if wire == Wire::Whole {
        // Either side may end it in any way.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
        return;
    }
    let mut asked = Vec::new();
    let (mut buffer, mut answer) = ([0; 16 * 1024], [0; 4096]);
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                asked.extend_from_slice(&buffer[..count]);
                if behind.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            _ = behind.read(&mut answer) => {
                if find(&asked, b"INSERT").is_some() {
                    lost_inserts.fetch_add(1, Ordering::AcqRel);
                }
                return;
            }
        }
    }
}

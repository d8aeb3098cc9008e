//! One connection, kept up by a task of its own.
//!
//! ```text
//!            answers a ping                 a command fails, a ping fails
//!   down ─────────────────────► up ─────────────────────────────────────► down
//!    ▲ └ tries again, 0.1 s to 1 s apart   └ pings every second
//! ```

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PING_INTERVAL: Duration = Duration::from_secs(1);
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Link {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    client: Client,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    current: ArcSwapOption<MultiplexedConnection>,
    broken: Notify,
}

impl Link {
    pub(super) async fn open(
        client: Client,
        connect_timeout: Duration,
        command_timeout: Duration,
    ) -> Link {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(Some(command_timeout));
        let shared = Arc::new(Shared {
            client,
            config,
            connect_timeout,
            current: ArcSwapOption::empty(),
            broken: Notify::new(),
        });
        if let Err(error) = shared.connect().await {
            tracing::warn!(%error, "Redis does not answer; going on without it");
        }
        let keeper = tokio::spawn(keep_up(shared.clone()));
        Link { shared, keeper }
    }

    pub(super) fn is_up(&self) -> bool {
        self.shared.current.load().is_some()
    }

    /// A handle to the connection, if one stands. Cloning is cheap; commands share the socket.
    pub(super) fn connection(&self) -> Option<MultiplexedConnection> {
        self.shared.current.load().as_deref().cloned()
    }

    /// A command failed at the connection: nobody uses it again.
    pub(super) fn broke(&self, error: &RedisError) {
        self.shared.drop_connection(error);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    async fn connect(&self) -> RedisResult<()> {
        let connecting = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(&self.config)
                .await?;
            // A server that accepts and then says nothing is not up.
            ::redis::cmd("PING")
                .query_async::<()>(&mut connection)
                .await?;
            Ok::<_, RedisError>(connection)
        };
        let connection = tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
        self.current.store(Some(Arc::new(connection)));
        Ok(())
    }

    fn drop_connection(&self, error: &RedisError) {
        // Many requests may fail at once; the first one tells.
        if self.current.swap(None).is_some() {
            tracing::warn!(%error, "Redis was lost; going on without it");
            self.broken.notify_one();
        }
    }
}

async fn keep_up(shared: Arc<Shared>) {
    loop {
        stay_connected(&shared).await;
        reconnect(&shared).await;
    }
}

/// Returns when the connection is lost.
async fn stay_connected(shared: &Shared) {
    loop {
        let Some(mut connection) = shared.current.load().as_deref().cloned() else {
            return;
        };
        tokio::select! {
            _ = shared.broken.notified() => return,
            _ = tokio::time::sleep(PING_INTERVAL) => {}
        }
        if let Err(error) = ::redis::cmd("PING")
            .query_async::<()>(&mut connection)
            .await
        {
            shared.drop_connection(&error);
        }
    }
}

async fn reconnect(shared: &Shared) {
    let mut delay = MIN_RETRY_DELAY;
    while shared.connect().await.is_err() {
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_RETRY_DELAY);
    }
    tracing::info!("Redis answers");
}

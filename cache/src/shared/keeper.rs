//! Connects, watches, and connects again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::Inner;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between the first attempts to connect; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Between later ones.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A connection that held so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// How often the server is probed, so that its end is known before somebody asks.
const PROBE: Duration = Duration::from_secs(1);

/// Keeps the circuit as the server deserves, for as long as it is polled.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut pause = PAUSE_MIN;
    loop {
        match connect(&inner).await {
            Ok(link) => {
                let since = Instant::now();
                inner.close(link);
                watch(&inner).await;
                if since.elapsed() > GOOD {
                    pause = PAUSE_MIN;
                }
            }
            Err(error) => *inner.error.write() = Some(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A connection over which a question was answered in the time that one has.
async fn connect(inner: &Inner) -> Result<MultiplexedConnection, String> {
    // Questions have a time limit of their own.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(None);
    let client = &inner.settings.client;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut link = connecting.await.map_err(|error| error.to_string())?;
    let timeout = inner.settings.timeout;
    match tokio::time::timeout(timeout, probe(inner, &mut link)).await {
        Ok(Ok(())) => Ok(link),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("a probe had no answer in {timeout:?}")),
    }
}

/// Returns when the circuit is open.
async fn watch(inner: &Inner) {
    loop {
        tokio::select! {
            () = inner.tripped.notified() => {}
            () = tokio::time::sleep(PROBE) => {}
        }
        let Some(mut link) = inner.link() else { return };
        inner.ask(probe(inner, &mut link)).await;
    }
}

/// What requests do: a server that answers pings only is of no use.
async fn probe(inner: &Inner, link: &mut MultiplexedConnection) -> redis::RedisResult<()> {
    let key = format!("{}probe", inner.prefix);
    redis::cmd("MGET").arg(key).query_async::<Vec<Option<Vec<u8>>>>(link).await.map(drop)
}

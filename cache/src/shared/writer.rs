//! Writes answers behind the requests that made them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Inner, SharedOutcome};
use crate::Digest;

/// Answers that may wait.
pub(super) const QUEUE_MAX: usize = 4096;
/// Written at once: few enough that a question behind them does not wait long.
const BATCH_MAX: usize = 64;
/// Nobody waits for it, but a server that takes longer is in trouble.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Write = (Digest, Vec<u8>);

/// Writes what comes, for as long as it is polled.
pub(super) async fn run(inner: Arc<Inner>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let count = batch.len() as u64;
        let written = write(&inner, batch.drain(..)).await;
        let counter = if written { &inner.written } else { &inner.lost_failed };
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

async fn write(inner: &Inner, batch: impl Iterator<Item = Write>) -> bool {
    let Some(mut link) = inner.link() else { return false };
    let seconds = inner.settings.age_max.as_secs();
    let mut pipeline = redis::pipe();
    for (key, value) in batch {
        pipeline.cmd("SET").arg(inner.key(key)).arg(value).arg("EX").arg(seconds).ignore();
    }
    let clock = Instant::now();
    let answer = tokio::time::timeout(TIMEOUT, pipeline.query_async::<()>(&mut link)).await;
    let outcome = match &answer {
        Ok(Ok(())) => SharedOutcome::Answered,
        Ok(Err(error)) => {
            // A server that is full can still be asked.
            if error.is_io_error() || error.is_connection_dropped() {
                inner.trip(error.to_string());
            }
            SharedOutcome::Failed
        }
        Err(_) => {
            inner.trip(format!("a write took longer than {TIMEOUT:?}"));
            SharedOutcome::Late
        }
    };
    inner.observer.exchange("set", clock.elapsed(), outcome);
    outcome == SharedOutcome::Answered
}

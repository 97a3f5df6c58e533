//! Answers that several processes share, in Redis or Valkey.
//!
//! Asking costs a round trip, so it is worth its time only where an answer costs more, and only while
//! the server is quick: a question has a time limit of milliseconds, and behind a server that does
//! not keep it a circuit breaker opens, after which nobody asks until a probe has been answered in
//! time. Nothing that is written is waited for. What is lost is only ever time.
//!
//! Circuit breaker: M. Nygard, *Release It!*, 2nd ed., ch. 5.

mod keeper;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::Digest;

/// So many questions in a row without an answer in time open the circuit.
const LATE_MAX: u32 = 5;

/// Why a shared cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SharedCacheError {
    /// The address is none. What it is stays unsaid: it may hold a password.
    #[error(
        "not an address of a Redis server (redis://HOST:PORT, rediss://…, unix:///…): {reason}"
    )]
    Address {
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the shared cache is and how it is used.
#[derive(Clone)]
pub struct SharedSettings {
    client: redis::Client,
    /// Time limit of a question.
    pub timeout: Duration,
    /// How long an answer is kept.
    pub age_max: Duration,
    /// Answers of another space are not seen.
    pub space: String,
}

impl SharedSettings {
    /// With the server at `address`: `redis://[user:password@]host[:port][/database]`, `rediss://…`
    /// for TLS, `unix:///path`.
    ///
    /// # Errors
    /// [`SharedCacheError::Address`].
    pub fn new(
        address: &str,
        timeout: Duration,
        age_max: Duration,
        space: String,
    ) -> Result<Self, SharedCacheError> {
        let client = redis::Client::open(address).map_err(|error| SharedCacheError::Address {
            reason: error.detail().unwrap_or("it cannot be read").to_owned(),
        })?;
        Ok(Self { client, timeout, age_max, space })
    }

    /// Host and port, or the socket; never the password.
    fn server(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }
}

impl std::fmt::Debug for SharedSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedSettings")
            .field("server", &self.server())
            .field("timeout", &self.timeout)
            .field("age_max", &self.age_max)
            .finish_non_exhaustive()
    }
}

/// How an exchange with the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedOutcome {
    /// With an answer.
    Answered,
    /// Not in time.
    Late,
    /// With an error.
    Failed,
}

/// Told of every exchange with the server. Called often; must not wait.
pub trait ObserveShared: Send + Sync + 'static {
    /// One exchange, of however many answers: `get` or `set`.
    fn exchange(&self, command: &'static str, took: Duration, outcome: SharedOutcome);
}

/// How the shared cache is, and counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SharedReading {
    /// Host and port, or the socket.
    pub server: String,
    /// Whether it is asked: the circuit is closed.
    pub up: bool,
    /// Why it is not.
    pub error: Option<String>,
    /// Times the circuit opened.
    pub trips_total: u64,
    /// Answers that were not asked for, the circuit being open.
    pub skipped_total: u64,
    /// Answers written.
    pub written_total: u64,
    /// Answers not written because too many waited for it.
    pub lost_full_total: u64,
    /// Answers not written because the server was away or refused them.
    pub lost_failed_total: u64,
}

/// A cache that several processes share. Its tasks end when it is dropped.
pub struct SharedCache {
    inner: Arc<Inner>,
    writes: mpsc::Sender<writer::Write>,
    tasks: [AbortHandle; 2],
}

struct Inner {
    settings: SharedSettings,
    /// Before the digest in every key.
    prefix: String,
    observer: Arc<dyn ObserveShared>,
    /// What to send through, while the circuit is closed.
    link: RwLock<Option<MultiplexedConnection>>,
    error: RwLock<Option<String>>,
    /// Wakes the keeper.
    tripped: Notify,
    late_in_a_row: AtomicU32,
    trips: AtomicU64,
    skipped: AtomicU64,
    written: AtomicU64,
    lost_full: AtomicU64,
    lost_failed: AtomicU64,
}

impl SharedCache {
    /// Connects in the background. Has to be called on a tokio runtime.
    #[must_use]
    pub fn start(settings: SharedSettings, observer: Arc<dyn ObserveShared>) -> Self {
        let space = Digest::of(&[settings.space.as_bytes()]);
        let inner = Arc::new(Inner {
            settings,
            prefix: format!("postsort:{space:.8}:"),
            observer,
            link: RwLock::default(),
            error: RwLock::new(Some("it has not been reached yet".into())),
            tripped: Notify::new(),
            late_in_a_row: AtomicU32::default(),
            trips: AtomicU64::default(),
            skipped: AtomicU64::default(),
            written: AtomicU64::default(),
            lost_full: AtomicU64::default(),
            lost_failed: AtomicU64::default(),
        });
        let (writes, queue) = mpsc::channel(writer::QUEUE_MAX);
        let tasks = [
            tokio::spawn(keeper::run(Arc::clone(&inner))).abort_handle(),
            tokio::spawn(writer::run(Arc::clone(&inner), queue)).abort_handle(),
        ];
        Self { inner, writes, tasks }
    }

    /// What is known of each key, in their order; nothing of all of them while the server is away or
    /// slow. Takes no longer than the time limit.
    pub async fn get(&self, keys: &[Digest]) -> Vec<Option<Vec<u8>>> {
        let nothing = || vec![None; keys.len()];
        let Some(mut link) = self.inner.link() else {
            self.inner.skipped.fetch_add(keys.len() as u64, Ordering::Relaxed);
            return nothing();
        };
        let mut command = redis::cmd("MGET");
        for &key in keys {
            command.arg(self.inner.key(key));
        }
        let values: Option<Vec<_>> = self.inner.ask(command.query_async(&mut link)).await;
        // A server that answers another number than it was asked for is none.
        values.filter(|values| values.len() == keys.len()).unwrap_or_else(nothing)
    }

    /// Writes it down soon, or never. `value` is made only if the server is there.
    pub fn put(&self, key: Digest, value: impl FnOnce() -> Vec<u8>) {
        if !self.is_up() {
            self.inner.lost_failed.fetch_add(1, Ordering::Relaxed);
        } else if let Ok(place) = self.writes.try_reserve() {
            place.send((key, value()));
        } else {
            self.inner.lost_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the circuit is closed.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.inner.link.read().is_some()
    }

    /// How it is.
    #[must_use]
    pub fn reading(&self) -> SharedReading {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SharedReading {
            server: self.inner.settings.server(),
            up: self.is_up(),
            error: self.inner.error.read().clone(),
            trips_total: count(&self.inner.trips),
            skipped_total: count(&self.inner.skipped),
            written_total: count(&self.inner.written),
            lost_full_total: count(&self.inner.lost_full),
            lost_failed_total: count(&self.inner.lost_failed),
        }
    }
}

impl Drop for SharedCache {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl std::fmt::Debug for SharedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedCache")
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn link(&self) -> Option<MultiplexedConnection> {
        self.link.read().clone()
    }

    fn key(&self, digest: Digest) -> String {
        format!("{}{digest}", self.prefix)
    }

    /// Awaits an answer for as long as a question may take, and opens the circuit if that is enough.
    async fn ask<T>(&self, answer: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
        let clock = Instant::now();
        let answer = tokio::time::timeout(self.settings.timeout, answer).await;
        let (outcome, value) = match answer {
            Ok(Ok(value)) => {
                self.late_in_a_row.store(0, Ordering::Relaxed);
                (SharedOutcome::Answered, Some(value))
            }
            Ok(Err(error)) => {
                self.trip(error.to_string());
                (SharedOutcome::Failed, None)
            }
            Err(_) => {
                if self.late_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= LATE_MAX {
                    let timeout = self.settings.timeout;
                    self.trip(format!(
                        "{LATE_MAX} questions in a row had no answer in {timeout:?}"
                    ));
                }
                (SharedOutcome::Late, None)
            }
        };
        self.observer.exchange("get", clock.elapsed(), outcome);
        value
    }

    /// Opens the circuit.
    fn trip(&self, reason: String) {
        if self.link.write().take().is_none() {
            return;
        }
        tracing::warn!(server = self.settings.server(), reason, "the shared cache is not asked");
        *self.error.write() = Some(reason);
        self.trips.fetch_add(1, Ordering::Relaxed);
        self.tripped.notify_one();
    }

    /// Closes it.
    fn close(&self, link: MultiplexedConnection) {
        tracing::info!(server = self.settings.server(), "the shared cache is asked");
        self.late_in_a_row.store(0, Ordering::Relaxed);
        *self.error.write() = None;
        *self.link.write() = Some(link);
    }
}

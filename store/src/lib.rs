//! What outlives the process: a journal of verdicts, what people said of them, memoized answers, and
//! the objectives' figures. In SQLite, which comes with the program, or in PostgreSQL.
//!
//! Nothing that is written is waited for: rows go into a bounded queue and from there, in batches, into
//! the database. While it is slow, full or away the queue fills; what then does not fit is lost, and
//! counted. Of a mail only a digest is kept, never a word.
//!
//! The tables are in `store/migrations`, the queries, each with an index, in `queries.rs`.
#![forbid(unsafe_code)]

mod answers;
mod database;
mod error;
mod feedback;
mod history;
mod id;
mod open;
mod queries;
mod record;
mod settings;
mod stats;
mod upkeep;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use database::Database;
pub use error::StoreError;
pub use feedback::{Feedback, Of};
pub use history::{HistoryFilter, HistoryItem};
use id::Ids;
use record::Row;
pub use record::{AnswerRecord, DigestBytes, ObjectivesRecord, RevisionName, VerdictRecord};
pub use settings::{StoreKind, StoreSettings};
pub use stats::{ConfusionSum, HourSum, Stats};

/// Told of what the store does. Its methods are called often and must not wait.
pub trait Observe: Send + Sync + 'static {
    /// A query ended.
    fn query(&self, query: &'static str, took: Duration, failed: bool);
    /// A job in the background ended, having dropped so many rows.
    fn job(&self, job: &'static str, took: Duration, dropped_rows: u64);
}

/// The store's own counts.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost_full: AtomicU64,
    lost_failed: AtomicU64,
    queued: AtomicUsize,
    bytes: AtomicU64,
}

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct StoreReading {
    /// `sqlite`, `postgres`.
    pub kind: &'static str,
    /// Whether it is open and took what was last written.
    pub up: bool,
    /// What is wrong with it.
    pub error: Option<String>,
    /// Rows written since the start.
    pub written_rows_total: u64,
    /// Rows lost since the start because the queue was full.
    pub lost_full_rows_total: u64,
    /// Rows lost since the start because the database refused them.
    pub lost_failed_rows_total: u64,
    /// Rows that wait to be written.
    pub queued_rows: usize,
    /// Connections that are open.
    pub connections: u32,
    /// Of these the idle ones.
    pub connections_idle: usize,
    /// Bytes of the database, at the last upkeep.
    pub bytes: u64,
    /// Rows by table, at the last upkeep.
    pub rows: Vec<(String, u64)>,
}

struct Inner {
    settings: StoreSettings,
    observer: Arc<dyn Observe>,
    ids: Ids,
    state: RwLock<State>,
    counts: Counts,
}

struct State {
    database: Option<Arc<Database>>,
    error: Option<String>,
    rows: Vec<(String, u64)>,
}

impl Inner {
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let state = self.state.read();
        state.database.clone().ok_or_else(|| {
            let reason = state.error.clone().unwrap_or_else(|| "it is being opened".into());
            StoreError::Away { reason }
        })
    }

    /// Remembers whether the database works.
    fn told(&self, error: Option<String>) {
        let mut state = self.state.write();
        match (&state.error, &error) {
            (None, Some(error)) => tracing::error!(error, "the store does not work"),
            (Some(_), None) => tracing::info!("the store works"),
            _ => {}
        }
        state.error = error;
    }
}

/// A store, open or on its way there. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    rows: mpsc::Sender<Row>,
    tasks: Arc<Vec<tokio::task::AbortHandle>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.inner.settings.kind).finish()
    }
}

impl Store {
    /// Begins to open it, in the background and until that succeeds; [`None`] where there is to be none.
    ///
    /// Has to be called on a tokio runtime.
    #[must_use]
    pub fn start(settings: StoreSettings, observer: Arc<dyn Observe>) -> Option<Self> {
        if settings.kind == StoreKind::None {
            return None;
        }
        let (rows, queue) = mpsc::channel(settings.queue_rows_max);
        let state = State { database: None, error: None, rows: Vec::new() };
        let inner = Arc::new(Inner {
            settings,
            observer,
            ids: Ids::new(),
            state: RwLock::new(state),
            counts: Counts::default(),
        });
        let tasks = [
            tokio::spawn(open::open(Arc::clone(&inner))).abort_handle(),
            tokio::spawn(writer::write(Arc::clone(&inner), queue)).abort_handle(),
            tokio::spawn(upkeep::tend(Arc::clone(&inner))).abort_handle(),
        ];
        Some(Self { inner, rows, tasks: Arc::new(tasks.into()) })
    }

    /// Writes down what was said of a mail; does not wait.
    pub fn verdict(&self, record: VerdictRecord) {
        self.put(Row::Verdict(Box::new(record)));
    }

    /// Keeps an answer; does not wait.
    pub fn answer(&self, record: AnswerRecord) {
        self.put(Row::Answer(record));
    }

    /// Writes down the objectives' figures; does not wait.
    pub fn objectives(&self, record: ObjectivesRecord) {
        self.put(Row::Objectives(record));
    }

    fn put(&self, row: Row) {
        let counts = &self.inner.counts;
        counts.queued.fetch_add(1, Ordering::Relaxed);
        if self.rows.try_send(row).is_err() {
            counts.queued.fetch_sub(1, Ordering::Relaxed);
            counts.lost_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was written before is in the database, or lost, but not for longer than
    /// this; tells whether it is.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let (told, flushed) = oneshot::channel();
        let sent =
            async { self.rows.send(Row::Flushed(told)).await.is_ok() && flushed.await.is_ok() };
        tokio::time::timeout(timeout, sent).await.unwrap_or(false)
    }

    /// Writes what waits, for as long as this, and lets go of the database.
    pub async fn close(&self, timeout: Duration) {
        if !self.flush(timeout).await {
            let rows = self.inner.counts.queued.load(Ordering::Relaxed);
            tracing::warn!(rows, "not all could be written to the store");
        }
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        let database = self.inner.state.write().database.take();
        if let Some(database) = database {
            let _ = tokio::time::timeout(timeout, database.close()).await;
        }
    }

    /// How it is.
    #[must_use]
    pub fn reading(&self) -> StoreReading {
        let (state, counts) = (self.inner.state.read(), &self.inner.counts);
        let connections = state.database.as_ref().map(|database| database.connections());
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StoreReading {
            kind: match self.inner.settings.kind {
                StoreKind::Sqlite(_) => "sqlite",
                StoreKind::Postgres(_) => "postgres",
                StoreKind::None => "none",
            },
            up: state.database.is_some() && state.error.is_none(),
            error: state.error.clone(),
            written_rows_total: load(&counts.written),
            lost_full_rows_total: load(&counts.lost_full),
            lost_failed_rows_total: load(&counts.lost_failed),
            queued_rows: counts.queued.load(Ordering::Relaxed),
            connections: connections.map_or(0, |(open, _)| open),
            connections_idle: connections.map_or(0, |(_, idle)| idle),
            bytes: load(&counts.bytes),
            rows: state.rows.clone(),
        }
    }
}

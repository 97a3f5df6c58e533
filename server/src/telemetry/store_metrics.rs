//! The store's metrics: what its queries and jobs take, and how it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use postsort_store::{Observe, StoreReading};

use super::exposition::Exposition;
use super::metrics::Metrics;
use super::names;
use super::registry::{Counter, Histogram};

/// Recorders of queries and jobs that ran so far; their names are the program's own.
#[derive(Debug)]
pub(crate) struct StoreMetrics {
    metrics: Arc<Metrics>,
    queries: RwLock<HashMap<&'static str, (Histogram, Counter)>>,
}

impl StoreMetrics {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, queries: RwLock::default() }
    }
}

impl Observe for StoreMetrics {
    fn query(&self, query: &'static str, took: Duration, failed: bool) {
        let known = self.queries.read().get(query).cloned();
        let (duration, failures) = known.unwrap_or_else(|| {
            let labels = [("query", query)];
            // There from the first query on, so that an increase is seen.
            let failures = self.metrics.counter(names::STORE_QUERY_FAILURES, &labels);
            let made = (self.metrics.histogram(names::STORE_QUERY, &labels), failures);
            self.queries.write().entry(query).or_insert(made).clone()
        });
        duration.time(took);
        failures.increment(u64::from(failed));
    }

    fn job(&self, job: &'static str, took: Duration, dropped_rows: u64) {
        // Once a minute: no handle is worth keeping.
        let labels = [("job", job)];
        self.metrics.histogram(names::STORE_JOB, &labels).time(took);
        self.metrics.counter(names::STORE_DROPPED_ROWS, &labels).increment(dropped_rows);
    }
}

/// Writes how the store is.
#[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
pub(super) fn write(store: &StoreReading, out: &mut Exposition) {
    out.sample(names::STORE_UP, &[("kind", store.kind)], f64::from(store.up));
    out.sample(names::STORE_WRITTEN_ROWS, &[], store.written_rows_total as f64);
    for (reason, rows) in
        [("full", store.lost_full_rows_total), ("failed", store.lost_failed_rows_total)]
    {
        out.sample(names::STORE_LOST_ROWS, &[("reason", reason)], rows as f64);
    }
    out.sample(names::STORE_QUEUED_ROWS, &[], store.queued_rows as f64);
    let busy = (store.connections as usize).saturating_sub(store.connections_idle);
    for (state, connections) in [("busy", busy), ("idle", store.connections_idle)] {
        out.sample(names::STORE_CONNECTIONS, &[("state", state)], connections as f64);
    }
    out.sample(names::STORE_BYTES, &[], store.bytes as f64);
    for (table, rows) in &store.rows {
        out.sample(names::STORE_ROWS, &[("table", table)], *rows as f64);
    }
}

//! Every series that is counted, not read: handles that cost an atomic or two, and their text.
//!
//! A handle is looked up once, for a model or an endpoint, and counts without a lock, on each CPU
//! in cells of its own. Nothing is kept of a sample but its bucket, so nothing grows between
//! scrapes or has to be folded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::exposition::{Exposition, Labels, labelled};
use super::names;
use super::shards::Sharded;

/// What only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter(Arc<Sharded<AtomicU64>>);

/// What goes up and down: the bits of a float.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<AtomicU64>);

/// How often values were how large.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    shards: Sharded<Samples>,
}

#[derive(Debug)]
struct Samples {
    /// One a bound and one for what is above them all; not cumulative.
    counts: Box<[AtomicU64]>,
    /// Bits of a float.
    sum: AtomicU64,
}

impl Counter {
    pub(super) fn increment(&self, by: u64) {
        if by > 0 {
            self.0.own().fetch_add(by, Ordering::Relaxed);
        }
    }

    pub(super) fn value(&self) -> u64 {
        self.0.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    /// Of something that is counted elsewhere, and never here.
    pub(super) fn absolute(&self, value: u64) {
        if let Some(cell) = self.0.iter().next() {
            cell.fetch_max(value, Ordering::Relaxed);
        }
    }
}

impl Gauge {
    pub(super) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let shards = Sharded::new(|| Samples {
            counts: (0..=bounds.len()).map(|_| AtomicU64::default()).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        });
        Self(Arc::new(Buckets { bounds, shards }))
    }

    pub(super) fn record(&self, value: f64) {
        let Buckets { bounds, shards } = &*self.0;
        let Samples { counts, sum } = shards.own();
        counts[bounds.partition_point(|&bound| bound < value)].fetch_add(1, Ordering::Relaxed);
        let added = |sum| Some((f64::from_bits(sum) + value).to_bits());
        // The closure always has a value, so the update cannot fail.
        let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }

    /// In seconds, as all durations are told.
    pub(super) fn time(&self, took: Duration) {
        self.record(took.as_secs_f64());
    }

    fn write(&self, name: &'static str, labels: &str, out: &mut Exposition) {
        let Buckets { bounds, shards } = &*self.0;
        let count = |at: usize| -> u64 {
            shards.iter().map(|samples| samples.counts[at].load(Ordering::Relaxed)).sum()
        };
        let mut below = 0;
        for (at, bound) in bounds.iter().enumerate() {
            below += count(at);
            out.bucket(name, labels, bound, below);
        }
        below += count(bounds.len());
        out.bucket(name, labels, "+Inf", below);
        let sum = |samples: &Samples| f64::from_bits(samples.sum.load(Ordering::Relaxed));
        out.line(name, "_sum", labels, shards.iter().map(sum).sum::<f64>());
        out.line(name, "_count", labels, below);
    }
}

/// Series of one kind by name and labels, the latter as they are written.
type Series<T> = Mutex<BTreeMap<(&'static str, String), T>>;

/// All series that were asked for so far.
#[derive(Debug, Default)]
pub(super) struct Registry {
    counters: Series<Counter>,
    gauges: Series<Gauge>,
    histograms: Series<Histogram>,
}

impl Registry {
    /// The counter of that name and labels; it is shown from here on, at zero.
    pub(super) fn counter(&self, name: &'static str, labels: Labels<'_>) -> Counter {
        self.counters.lock().entry((name, labelled(labels))).or_default().clone()
    }

    /// The same of a gauge.
    pub(super) fn gauge(&self, name: &'static str, labels: Labels<'_>) -> Gauge {
        self.gauges.lock().entry((name, labelled(labels))).or_default().clone()
    }

    /// The same of a histogram, with the buckets that its name has.
    pub(super) fn histogram(&self, name: &'static str, labels: Labels<'_>) -> Histogram {
        let new = || Histogram::new(names::buckets(name));
        self.histograms.lock().entry((name, labelled(labels))).or_insert_with(new).clone()
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        for ((name, labels), counter) in &*self.counters.lock() {
            out.line(name, "", labels, counter.value());
        }
        for ((name, labels), gauge) in &*self.gauges.lock() {
            out.line(name, "", labels, f64::from_bits(gauge.0.load(Ordering::Relaxed)));
        }
        for ((name, labels), histogram) in &*self.histograms.lock() {
            histogram.write(name, labels, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Exposition, Registry};
    use crate::telemetry::names;

    #[test]
    fn series_are_there_from_the_start_and_count() {
        let registry = Registry::default();
        let labels = [("model", "a\"b"), ("agreed", "true")];
        registry.counter(names::SHADOW_MAILS, &labels).increment(2);
        registry.counter(names::SHADOW_MAILS, &labels).increment(1);
        registry.counter(names::SHADOW_MAILS, &[("model", "c"), ("agreed", "true")]).absolute(0);
        registry.gauge(names::MODEL_PINNED, &[("model", "c")]).set(1.0);
        let jobs = registry.histogram(names::BATCH_JOBS, &[("model", "c")]);
        for jobs_of_a_pass in [1.0, 2.0, 3.0, 1e6] {
            jobs.record(jobs_of_a_pass);
        }
        let mut out = Exposition::default();
        registry.write(&mut out);
        let text = out.into_text();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        assert_eq!(
            lines[..6],
            [
                "# TYPE postsort_shadow_mails_total counter",
                "postsort_shadow_mails_total{model=\"a\\\"b\",agreed=\"true\"} 3",
                "postsort_shadow_mails_total{model=\"c\",agreed=\"true\"} 0",
                "# TYPE postsort_model_pinned gauge",
                "postsort_model_pinned{model=\"c\"} 1",
                "# TYPE postsort_batch_jobs histogram",
            ]
        );
        let bucket = |le: &str| {
            let head = format!("postsort_batch_jobs_bucket{{model=\"c\",le=\"{le}\"}} ");
            lines.iter().find_map(|line| line.strip_prefix(&head)).expect("the bucket").to_owned()
        };
        // A bound is in its own bucket, and a bucket holds what is below it.
        assert_eq!(["1", "2", "4", "128", "+Inf"].map(bucket), ["1", "2", "3", "3", "4"]);
        assert_eq!(
            lines[lines.len() - 2..],
            [
                "postsort_batch_jobs_sum{model=\"c\"} 1000006",
                "postsort_batch_jobs_count{model=\"c\"} 4"
            ]
        );
    }

    /// Two threads that record at once lose nothing.
    #[test]
    fn nothing_is_lost() {
        let registry = Registry::default();
        let histogram = registry.histogram(names::BATCH_JOBS, &[]);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10_000).for_each(|_| histogram.record(3.0)));
            }
        });
        let mut out = Exposition::default();
        registry.write(&mut out);
        let text = out.into_text();
        assert!(text.contains("_sum 60000\n") && text.contains("_count 20000\n"), "{text}");
    }
}

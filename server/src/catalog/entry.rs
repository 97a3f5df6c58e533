//! A model by name, and the revisions of it that are served, were served, or are tried.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use postsort_cache::EvictionReason;
use postsort_models::{Found, ModelFolder};

use super::version::Version;
use crate::error::Error;
use crate::telemetry::{DriftSummary, DriftWindow, LatencyWindow, Metrics, ModelMetrics};

/// One model folder, loaded or not.
#[derive(Debug)]
pub struct Entry {
    /// The model's name.
    pub name: String,
    /// Its metrics.
    pub metrics: Arc<ModelMetrics>,
    /// Its latencies of the last minute.
    pub latency: LatencyWindow,
    /// What its answers of the last hour look like.
    pub drift: DriftWindow,
    /// The folder of the model or of its revisions.
    pub(super) path: PathBuf,
    versions: RwLock<Versions>,
    /// Held by whoever changes the revision.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Loads and evictions of revisions that are not served any more.
    pub(super) past: Mutex<Past>,
}

/// Counts of revisions that are not served any more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    pub(super) loads: u64,
    pub(super) evictions: [u64; EvictionReason::ALL.len()],
}

/// Which revisions there are to an entry.
#[derive(Clone, Debug)]
pub struct Versions {
    /// What answers, or what is wrong with the folder.
    pub current: Result<Arc<Version>, String>,
    /// What answered before it.
    pub previous: Option<Arc<Version>>,
    /// What is tried beside it.
    pub shadow: Option<Arc<Shadow>>,
    /// Names of the revisions' folders.
    pub available: Vec<String>,
    /// Whether a newer revision in the folder is taken; not after somebody chose one.
    pub following: bool,
    /// Why the last change of the revision failed.
    pub last_change_error: Option<String>,
}

/// A revision that reads a share of the mails beside the one that answers.
#[derive(Debug)]
pub struct Shadow {
    /// The revision.
    pub version: Arc<Version>,
    /// Of a million mails, so many are read by it too.
    share_ppm: u64,
    drawn: AtomicU64,
    in_flight: AtomicUsize,
    compared: AtomicU64,
    agreed: AtomicU64,
}

/// More are not read at once by a shadow: it must not pile up work behind those who wait.
const SHADOW_MAILS_MAX: usize = 64;

impl Entry {
    pub(super) fn new(found: Found, metrics: &Metrics) -> Self {
        let metrics = Arc::new(metrics.model(&found.name));
        let (name, path) = (found.name, found.path);
        let current = match found.folder {
            Ok(folder) => Ok(Arc::new(Version::new(&name, found.label, folder, &metrics))),
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(model = name, reason, "unusable model folder");
                Err(reason)
            }
        };
        let versions = Versions {
            current,
            previous: None,
            shadow: None,
            available: found.revisions,
            following: true,
            last_change_error: None,
        };
        Self {
            name,
            metrics,
            latency: LatencyWindow::default(),
            drift: DriftWindow::default(),
            path,
            versions: RwLock::new(versions),
            changing: tokio::sync::Mutex::default(),
            past: Mutex::default(),
        }
    }

    /// The revision that answers.
    ///
    /// # Errors
    /// [`Error::LoadFailed`] for a folder that cannot be read.
    pub fn current(&self) -> Result<Arc<Version>, Error> {
        self.versions.read().current.clone().map_err(|reason| Error::LoadFailed {
            model: self.name.clone(),
            reason,
            retry_after: Duration::from_secs(60),
        })
    }

    /// Whether the revision that answers leaves it to a cheaper model first. Every request asks, so nothing is
    /// taken that two threads would count.
    pub(crate) fn has_cascade(&self) -> bool {
        let versions = self.versions.read();
        versions.current.as_ref().is_ok_and(|own| own.folder.manifest().cascade.is_some())
    }

    /// What its answers of the last hour look like, with its labels.
    #[must_use]
    pub fn drift_summary(&self) -> Option<(Vec<String>, DriftSummary)> {
        let version = self.current().ok()?;
        let (names, manifest) = (version.folder.labels().names(), version.folder.manifest());
        Some((names.to_vec(), self.drift.summary(names, manifest.reference.as_ref())))
    }

    /// Whether the manifest asks for it to be in memory always.
    pub(super) fn is_pinned_by_manifest(&self) -> bool {
        self.current().is_ok_and(|version| version.folder.manifest().pinned)
    }

    /// What is tried beside it.
    #[must_use]
    pub fn shadow(&self) -> Option<Arc<Shadow>> {
        self.versions.read().shadow.clone()
    }

    /// All revisions.
    #[must_use]
    pub fn versions(&self) -> Versions {
        self.versions.read().clone()
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Versions) -> T) -> T {
        change(&mut self.versions.write())
    }

    pub(super) fn version(&self, label: Option<String>, folder: ModelFolder) -> Arc<Version> {
        Arc::new(Version::new(&self.name, label, folder, &self.metrics))
    }
}

impl Shadow {
    pub(super) fn new(version: Arc<Version>, share: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e6")]
        let share_ppm = (share.clamp(0.0, 1.0) * 1e6) as u64;
        let (drawn, in_flight) = (AtomicU64::new(0), AtomicUsize::new(0));
        let (compared, agreed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { version, share_ppm, drawn, in_flight, compared, agreed }
    }

    /// Whether the next mail is among the share, and there is room for it. If so
    /// [`Self::compared`] or [`Self::given_up`] has to follow.
    #[must_use]
    pub fn draw(&self) -> bool {
        // Spread evenly: exactly the share of any run of mails, without a random number.
        let at = self.drawn.fetch_add(self.share_ppm, Ordering::Relaxed);
        if (at + self.share_ppm) / 1_000_000 == at / 1_000_000 {
            return false;
        }
        let room = |mails| (mails < SHADOW_MAILS_MAX).then_some(mails + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// A mail was read by both.
    pub fn compared(&self, agreed: bool) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.compared.fetch_add(1, Ordering::Relaxed);
        self.agreed.fetch_add(u64::from(agreed), Ordering::Relaxed);
    }

    /// A mail could not be read by it.
    pub fn given_up(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Mails compared, and those of them with the same first label.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.compared.load(Ordering::Relaxed), self.agreed.load(Ordering::Relaxed))
    }

    /// The share of mails that it reads.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    pub fn share(&self) -> f64 {
        self.share_ppm as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use postsort_models::find;

    use super::{Entry, Shadow};
    use crate::telemetry::Metrics;

    #[test]
    fn a_shadow_reads_exactly_its_share_and_never_piles_up() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tests/fixtures/bert");
        let found = find(std::path::Path::new(fixture)).expect("a model");
        let entry = Entry::new(found, &Metrics::new(&["cpu".to_owned()]));
        let version = entry.current().expect("readable");
        for (share, expected) in [(0.0, 0), (0.1, 100), (0.333, 333), (1.0, 1000)] {
            let shadow = Shadow::new(version.clone(), share);
            let drawn = (0..1000).filter(|_| shadow.draw()).map(|_| shadow.compared(true)).count();
            assert_eq!(drawn, expected, "{share}");
            assert_eq!(shadow.counts(), (expected as u64, expected as u64));
        }
        let shadow = Shadow::new(version, 1.0);
        assert_eq!((0..1000).filter(|_| shadow.draw()).count(), super::SHADOW_MAILS_MAX);
        shadow.given_up();
        assert!(shadow.draw());
    }
}

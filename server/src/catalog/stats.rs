//! What is known of models and devices now: where models are, and what they take there.

use postsort_cache::{EvictionReason, ModelState, ResidencyStats, Spec};

use super::Catalog;
use super::entry::Entry;
use super::loader::LoadError;
use super::version::Version;
use crate::devices::DeviceUsage;

impl Catalog {
    /// Where the model is in its life, all its revisions counted. A broken folder is `failed` from
    /// the start.
    #[must_use]
    pub fn stats(&self, entry: &Entry) -> ResidencyStats<String> {
        let versions = entry.versions();
        let stats = match &versions.current {
            Ok(version) => self.stats_of(version).0,
            Err(_) => self.residency.stats(""),
        };
        let past = *entry.past.lock();
        let mut evictions = stats.evictions;
        for reason in EvictionReason::ALL {
            evictions[reason as usize] += past.evictions[reason as usize];
        }
        let broken = versions.current.err();
        ResidencyStats {
            state: if broken.is_some() { ModelState::Failed } else { stats.state },
            device: stats.device,
            resident_bytes: stats.resident_bytes,
            shared_bytes: stats.shared_bytes,
            leases: stats.leases,
            pinned: stats.pinned,
            loads: stats.loads + past.loads,
            evictions,
            load_duration: stats.load_duration,
            last_error: broken.or_else(|| stats.last_error.map(|error| error.to_string())),
        }
    }

    /// Where one revision is in its life.
    #[must_use]
    pub fn version_state(&self, version: &Version) -> ModelState {
        self.stats_of(version).0.state
    }

    /// Bytes of the model in memory on each device, by its name.
    #[must_use]
    pub fn resident_bytes(&self, entry: &Entry) -> Vec<(String, u64)> {
        let names = self.devices.names();
        let bytes = match entry.current() {
            Ok(version) => self.stats_of(&version).1,
            Err(_) => vec![0; names.len()],
        };
        names.into_iter().zip(bytes).collect()
    }

    /// The name of the device where the model is, if it is in memory.
    #[must_use]
    pub fn device_of<E>(&self, stats: &ResidencyStats<E>) -> Option<String> {
        stats.device.map(|device| self.devices.names().swap_remove(device))
    }

    /// The devices: their memory, and what models have of it and may have. The CPU is first.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceUsage> {
        self.devices.usage(&self.residency.usage())
    }

    /// Where a revision is in its life, its copy with it; and bytes in memory by device.
    fn stats_of(&self, version: &Version) -> (ResidencyStats<LoadError>, Vec<u64>) {
        let own = self.residency.stats(version.key());
        let copy = version.copy().map(|copy| self.residency.stats(copy.key()));
        let mut bytes = vec![0; self.devices.iter().count()];
        for stats in std::iter::once(&own).chain(&copy) {
            if let Some(device) = stats.device {
                bytes[device] += stats.resident_bytes;
            }
        }
        let both = match copy {
            Some(copy) => together(own, copy),
            None => own,
        };
        (both, bytes)
    }
}

/// A revision's history and its copy's as one. It is where it can answer.
pub(super) fn together(
    own: ResidencyStats<LoadError>,
    copy: ResidencyStats<LoadError>,
) -> ResidencyStats<LoadError> {
    let copy_answers = own.state != ModelState::Ready && copy.state == ModelState::Ready;
    let (state, device, load_duration) = if copy_answers {
        (copy.state, copy.device, copy.load_duration)
    } else {
        (own.state, own.device, own.load_duration)
    };
    let mut evictions = own.evictions;
    for reason in EvictionReason::ALL {
        evictions[reason as usize] += copy.evictions[reason as usize];
    }
    ResidencyStats {
        state,
        device,
        resident_bytes: own.resident_bytes + copy.resident_bytes,
        shared_bytes: own.shared_bytes + copy.shared_bytes,
        leases: own.leases + copy.leases,
        pinned: own.pinned,
        loads: own.loads + copy.loads,
        evictions,
        load_duration,
        last_error: own.last_error.or(copy.last_error),
    }
}

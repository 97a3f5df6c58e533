//! A revision's copy on the CPU, for when its device has no memory for it.
//!
//! A revision that finds no memory when it is to be loaded is answered for by the copy until that
//! is dropped from memory again. One that is there and finds none for a batch stays there: only
//! the mails of that batch go to the copy.

use std::sync::Arc;

use postsort_cache::{Lease, ModelState, ResidencyError, ResidencyStats, Spec};

use super::entry::Entry;
use super::loader::{LoadError, Served};
use super::stats::together;
use super::version::Version;
use super::{Catalog, told_of};
use crate::devices::CPU;
use crate::error::Error;

impl Catalog {
    /// A lease on the revision's copy on the CPU, which is loaded if need be.
    ///
    /// # Errors
    /// As [`Self::acquire`]; [`Error::Inference`] for what is on the CPU already.
    pub async fn fall_back(
        &self,
        entry: &Entry,
        served: &Lease<Served>,
    ) -> Result<Lease<Served>, Error> {
        if served.device == CPU {
            let reason = "the CPU has no memory left for a mail".to_owned();
            return Err(Error::Inference { model: entry.name.clone(), reason });
        }
        let copy = served.version.on_cpu();
        self.residency.acquire(copy).await.map_err(|error| told_of(entry, error))
    }

    /// A lease on the revision, where it is or can be loaded.
    pub(super) async fn acquire_anywhere(
        &self,
        version: &Arc<Version>,
    ) -> Result<Lease<Served>, ResidencyError<LoadError>> {
        if let Some(copy) = self.stand_in(version)
            && let Some(lease) = self.residency.lease(copy.key())
        {
            return Ok(lease);
        }
        match self.residency.acquire(version).await {
            Err(error) if self.may_fall_back(version, &error) => {
                self.residency.acquire(version.on_cpu()).await
            }
            acquired => acquired,
        }
    }

    /// Whether the revision can answer without being loaded.
    pub(super) fn is_in_memory(&self, version: &Version) -> bool {
        self.residency.peek(version.key()).is_some() || self.stand_in(version).is_some()
    }

    /// The copy that answers for a revision which found no memory on its device; none for nearly
    /// all.
    #[must_use]
    pub fn stand_in<'a>(&self, version: &'a Version) -> Option<&'a Arc<Version>> {
        let copy = version.copy()?;
        let is_there = self.residency.stats(copy.key()).state == ModelState::Ready;
        let own = self.residency.stats(version.key());
        let stands_in = is_there
            && own.state != ModelState::Ready
            && matches!(own.last_error, Some(LoadError::OutOfMemory { .. }));
        stands_in.then_some(copy)
    }

    /// Whether a load failed for reasons that its copy on the CPU need not share.
    fn may_fall_back(&self, version: &Version, error: &ResidencyError<LoadError>) -> bool {
        let for_want_of_memory = match error {
            ResidencyError::LargerThanBudget { .. } | ResidencyError::NoRoom { .. } => true,
            ResidencyError::Failed { source_error, .. } => {
                matches!(source_error, LoadError::OutOfMemory { .. })
            }
            ResidencyError::Retired => false,
        };
        let source = self.residency.source();
        for_want_of_memory && source.device(version).is_ok_and(|device| device != CPU)
    }

    /// A revision and its copy are out of the catalog; what they were until now.
    pub(super) fn retire_both(&self, version: &Arc<Version>) -> ResidencyStats<LoadError> {
        let own = self.residency.retire(version.key());
        match self.possible_copy(version) {
            Some(copy) => together(own, self.residency.retire(copy.key())),
            None => own,
        }
    }

    /// A retired revision, and its copy, may be loaded again.
    pub(super) fn revive(&self, version: &Arc<Version>) {
        self.residency.revive(version.key());
        if let Some(copy) = self.possible_copy(version) {
            self.residency.revive(copy.key());
        }
    }

    /// The copy that somebody may ask for, now or later; none where there is but the CPU.
    fn possible_copy<'a>(&self, version: &'a Arc<Version>) -> Option<&'a Arc<Version>> {
        (self.devices.preferred() != CPU).then(|| version.on_cpu())
    }
}

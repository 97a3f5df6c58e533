//! A model in use, as the scheduler sees it.

use std::sync::Arc;

use postsort_cache::{Lease, Residency};
use postsort_models::{Encoding, ModelError, SharedEncoder};

use super::loader::{Loader, Served};
use crate::scheduler::{BatchModel, CostModel, DropReason, Relief};

/// The scheduler's view of a leased model.
#[derive(Clone, Debug)]
pub struct LeasedModel {
    pub(super) lease: Lease<Served>,
    /// Those beside it on its device.
    pub(super) residency: Arc<Residency<Loader>>,
}

impl BatchModel for LeasedModel {
    fn identity(&self) -> usize {
        // Models that share an encoder differ in what is made of its states.
        let own = || std::ptr::from_ref::<Served>(&self.lease) as usize;
        self.lease.model.encoder().map_or_else(own, SharedEncoder::address)
    }
    fn owner(&self) -> usize {
        self.lease.version.owner()
    }
    fn cost(&self) -> &CostModel {
        &self.lease.version.cost
    }
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.lease.model.engine().encode(batch)
    }
    fn make_room(&self) -> bool {
        self.residency.evict_least_worth(self.lease.device)
    }
    fn ran_out_of_memory(&self, relief: Relief) {
        self.residency.source().relieved(self.lease.device, relief);
    }
    fn queued(&self, tokens: usize) {
        self.lease.version.metrics.queued(tokens);
    }
    fn dequeued(&self, tokens: usize) {
        self.lease.version.metrics.dequeued(tokens);
    }
    fn batched(&self, tokens: usize, jobs: usize) {
        self.lease.version.metrics.batch(tokens, jobs);
    }
    fn dropped(&self, reason: DropReason) {
        self.lease.version.metrics.dropped(reason);
    }
}

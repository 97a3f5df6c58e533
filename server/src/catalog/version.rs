//! One revision of a model, and its copy on the CPU.

use std::sync::{Arc, OnceLock};

use postsort_cache::Spec;
use postsort_models::ModelFolder;
use postsort_store::RevisionName;

use crate::scheduler::CostModel;
use crate::telemetry::ModelMetrics;

/// One revision of a model.
#[derive(Debug)]
pub struct Version {
    /// What it is known by in memory.
    key: String,
    /// Its copy on the CPU, once that was needed; of a copy there is none.
    copy: Copied,
    /// The name of its folder, if the model has revisions.
    pub label: Option<String>,
    /// All of it but its weights.
    pub folder: ModelFolder,
    /// What its forward passes take, since it was loaded first.
    pub cost: CostModel,
    /// The metrics of its model.
    pub(crate) metrics: Arc<ModelMetrics>,
    /// What the store knows it by.
    pub(crate) named: Arc<RevisionName>,
}

/// Whether a version is one of its own, and then its copy.
#[derive(Debug)]
enum Copied {
    No(OnceLock<Arc<Version>>),
    IsCopy,
}

impl Spec for Version {
    fn key(&self) -> &str {
        &self.key
    }
}

impl Version {
    pub(super) fn new(
        name: &str,
        label: Option<String>,
        folder: ModelFolder,
        metrics: &Arc<ModelMetrics>,
    ) -> Self {
        let key = format!("{name}@{}", folder.revision());
        let named = Arc::new(RevisionName {
            model: name.to_owned(),
            revision: folder.revision().to_owned(),
            labels: folder.labels().names().to_vec(),
        });
        let (metrics, copy) = (Arc::clone(metrics), Copied::No(OnceLock::new()));
        Self { key, copy, label, folder, cost: CostModel::default(), metrics, named }
    }

    /// The same revision, to be loaded on the CPU: it has a place in memory, and costs, of its own.
    pub(super) fn on_cpu(self: &Arc<Self>) -> &Arc<Self> {
        match &self.copy {
            Copied::IsCopy => self,
            Copied::No(copy) => copy.get_or_init(|| {
                Arc::new(Self {
                    key: format!("{} on cpu", self.key),
                    copy: Copied::IsCopy,
                    label: self.label.clone(),
                    folder: self.folder.clone(),
                    cost: CostModel::default(),
                    metrics: Arc::clone(&self.metrics),
                    named: Arc::clone(&self.named),
                })
            }),
        }
    }

    /// What [`Self::on_cpu`] made, if it did.
    pub(super) fn copy(&self) -> Option<&Arc<Self>> {
        match &self.copy {
            Copied::IsCopy => None,
            Copied::No(copy) => copy.get(),
        }
    }

    pub(super) fn is_copy(&self) -> bool {
        matches!(self.copy, Copied::IsCopy)
    }

    /// Whose share of the engine it uses: the same for all revisions of a model.
    #[must_use]
    pub fn owner(&self) -> usize {
        Arc::as_ptr(&self.metrics) as usize
    }
}

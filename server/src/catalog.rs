//! The models that the server knows, and those of them that are in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postsort_cache::{Backoff, Lease, Residency, ResidencyError, ResidencyStats, Source};
use postsort_models::{Encoding, LoadOptions, Model, ModelError, ModelFolder};

use crate::error::Error;
use crate::scheduler::BatchModel;
use crate::telemetry::{LatencyWindow, Metrics, ModelMetrics};

/// All models by name.
#[derive(Debug)]
pub struct Catalog {
    residency: Residency<Folders>,
    default_model: Option<String>,
}

/// One model folder, loaded or not.
#[derive(Debug)]
pub struct Entry {
    /// The model's name.
    pub name: String,
    /// What is known without loading it; or what is wrong with the folder.
    pub folder: Result<ModelFolder, String>,
    /// Its metrics.
    pub metrics: ModelMetrics,
    /// Its latencies of the last minute.
    pub latency: LatencyWindow,
}

/// A loaded model with its entry.
#[derive(Debug)]
pub struct Served {
    /// The model.
    pub model: Model,
    /// Its entry.
    pub entry: Arc<Entry>,
}

/// Loads models from their folders.
#[derive(Debug)]
struct Folders {
    entries: BTreeMap<String, Arc<Entry>>,
    options: LoadOptions,
}

impl Catalog {
    /// Reads the folder; loads nothing.
    ///
    /// # Errors
    /// The folder cannot be read, or `default_model` is not in it. A broken model folder is not an
    /// error here: it is listed, with what is wrong, and its requests fail.
    pub fn open(
        models_dir: &Path,
        options: LoadOptions,
        budget_bytes: u64,
        default_model: Option<String>,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        let found = postsort_models::discover(models_dir)
            .map_err(|e| Error::setup(format!("models_dir {}", models_dir.display()), e))?;
        let mut entries = BTreeMap::new();
        for found in found {
            let folder = found.folder.map_err(|error| error.to_string());
            if let Err(reason) = &folder {
                tracing::warn!(model = found.name, reason, "unusable model folder");
            }
            let entry = Entry {
                name: found.name.clone(),
                folder,
                metrics: metrics.model(&found.name),
                latency: LatencyWindow::default(),
            };
            entries.insert(found.name, Arc::new(entry));
        }
        let default_model = match default_model {
            Some(name) if !entries.contains_key(&name) => {
                return Err(Error::setup("setting default_model", Error::unknown_model(&name)));
            }
            Some(name) => Some(name),
            None if entries.len() == 1 => entries.keys().next().cloned(),
            None => Some("spam".to_owned()).filter(|name| entries.contains_key(name)),
        };
        let residency =
            Residency::new(Folders { entries, options }, budget_bytes, Backoff::default());
        Ok(Self { residency, default_model })
    }

    /// All entries, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.residency.source().entries.values()
    }

    /// The entry of `name`, or of the default model where a request names none.
    ///
    /// # Errors
    /// [`Error::UnknownModel`]; [`Error::Malformed`] where none is named and there is no default.
    pub fn entry(&self, name: Option<&str>) -> Result<&Arc<Entry>, Error> {
        let name = name
            .or(self.default_model.as_deref())
            .ok_or_else(|| Error::malformed("model", "the name of a model: there is no default"))?;
        self.residency.source().entries.get(name).ok_or_else(|| Error::unknown_model(name))
    }

    /// The name of the model that answers where a request names none.
    #[must_use]
    pub fn default_model(&self) -> Option<&str> {
        self.default_model.as_deref()
    }

    /// The model in memory; loaded now if it was not.
    ///
    /// # Errors
    /// [`Error::LoadFailed`], [`Error::NoRoom`], [`Error::LargerThanBudget`].
    pub async fn acquire(&self, entry: &Entry) -> Result<Lease<Served>, Error> {
        if let Some(lease) = self.residency.lease(&entry.name) {
            return Ok(lease);
        }
        let model = || entry.name.clone();
        self.residency.acquire(&entry.name).await.map_err(|error| match error {
            ResidencyError::LargerThanBudget { needed_bytes, budget_bytes } => {
                Error::LargerThanBudget { model: model(), needed_bytes, budget_bytes }
            }
            ResidencyError::NoRoom { needed_bytes, free_bytes } => {
                Error::NoRoom { model: model(), needed_bytes, free_bytes }
            }
            ResidencyError::Failed { source_error, retry_after } => {
                Error::LoadFailed { model: model(), reason: source_error, retry_after }
            }
        })
    }

    /// The model if it is in memory. Looking does not count as use.
    #[must_use]
    pub fn resident(&self, entry: &Entry) -> Option<Lease<Served>> {
        self.residency.peek(&entry.name)
    }

    /// Drops the model from memory when its last request ends. Whether it was there.
    pub fn unload(&self, entry: &Entry) -> bool {
        self.residency.unload(&entry.name)
    }

    /// Keeps the model from being evicted, or allows it.
    pub fn set_pinned(&self, entry: &Entry, pinned: bool) {
        self.residency.set_pinned(&entry.name, pinned);
    }

    /// Where the model is in its life. A broken folder is `failed` from the start.
    #[must_use]
    pub fn stats(&self, entry: &Entry) -> ResidencyStats<String> {
        let mut stats = self.residency.stats(&entry.name);
        if let Err(reason) = &entry.folder {
            stats.state = postsort_cache::ModelState::Failed;
            stats.last_error = Some(reason.clone());
        }
        stats
    }

    /// Bytes of models in memory, those being loaded included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.residency.used_bytes()
    }

    /// Bytes that models may take.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.residency.budget_bytes()
    }
}

impl Folders {
    fn folder(&self, name: &str) -> Result<(&Arc<Entry>, &ModelFolder), String> {
        let entry = self.entries.get(name).ok_or("no such model")?;
        entry.folder.as_ref().map(|folder| (entry, folder)).map_err(Clone::clone)
    }
}

impl Source for Folders {
    type Model = Served;
    type Error = String;

    fn estimate_bytes(&self, name: &str) -> Result<u64, String> {
        let (_, folder) = self.folder(name)?;
        Ok(self.options.resident_bytes_estimate(folder))
    }

    fn load(&self, name: &str) -> Result<(Served, u64), String> {
        let (entry, folder) = self.folder(name)?;
        let started = std::time::Instant::now();
        let model = Model::load(folder, &self.options).map_err(|error| {
            entry.metrics.load_failed();
            tracing::error!(model = name, %error, "load failed");
            error.to_string()
        })?;
        let (took, bytes): (Duration, u64) = (started.elapsed(), model.resident_bytes());
        entry.metrics.loaded(took);
        tracing::info!(
            model = name,
            revision = folder.revision(),
            engine = model.engine().name(),
            precision = %model.engine().precision(),
            kernels = model.engine().kernels(),
            resident_bytes = bytes,
            load_ms = took.as_millis(),
            "loaded"
        );
        Ok((Served { model, entry: Arc::clone(entry) }, bytes))
    }

    fn panicked(&self, name: &str) -> String {
        if let Some(entry) = self.entries.get(name) {
            entry.metrics.load_failed();
        }
        tracing::error!(model = name, "load panicked");
        "the loader panicked".to_owned()
    }
}

/// The scheduler's view of a leased model.
#[derive(Clone, Debug)]
pub struct LeasedModel(pub Lease<Served>);

impl BatchModel for LeasedModel {
    fn identity(&self) -> usize {
        std::ptr::from_ref::<Served>(&self.0) as usize
    }
    fn forward(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.0.model.forward(batch)
    }
    fn queued(&self, tokens: usize) {
        self.0.entry.metrics.queued(tokens);
    }
    fn dequeued(&self, tokens: usize) {
        self.0.entry.metrics.dequeued(tokens);
    }
    fn batched(&self, tokens: usize, jobs: usize) {
        self.0.entry.metrics.batch(tokens, jobs);
    }
}

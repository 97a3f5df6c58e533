//! Loads models from their folders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postsort_cache::{Lease, Needs, Source};
use postsort_models::{Encoding, LoadOptions, MemoryNeeds, Model, ModelError, SharedEncoder};

use super::entry::Version;
use crate::scheduler::{BatchModel, CostModel, DropReason};

/// How much lower than requests a load is scheduled where both want a CPU, as `nice` has it.
const LOAD_NICENESS: i32 = 15;

/// A loaded model with its revision.
#[derive(Debug)]
pub struct Served {
    /// The model.
    pub model: Model,
    /// Its revision.
    pub version: Arc<Version>,
}

/// Loads models from their folders.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) options: LoadOptions,
}

/// Why a load failed.
#[derive(Clone, Debug)]
pub(super) enum LoadError {
    /// What was wrong.
    Broken(String),
    /// The folder is not any more what it was when it was described.
    Changed,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(reason) => f.write_str(reason),
            Self::Changed => f.write_str("the folder has changed since it was read"),
        }
    }
}

impl Loader {
    fn read(&self, version: &Version) -> Result<Model, LoadError> {
        // Where tensors lie was read when the folder was found: what has replaced it since would
        // be read at the wrong places.
        let broken = |error: ModelError| LoadError::Broken(error.to_string());
        if !version.folder.is_unchanged().map_err(broken)? {
            return Err(LoadError::Changed);
        }
        let model = Model::load(&version.folder, &self.options).map_err(broken)?;
        version.cost.fit(&model.warm_up().map_err(broken)?);
        Ok(model)
    }
}

impl Source for Loader {
    type Spec = Version;
    type Model = Served;
    type Error = LoadError;

    fn estimate(&self, version: &Version) -> Result<Needs, LoadError> {
        Ok(needs(self.options.memory_needs(&version.folder)))
    }

    fn load(&self, version: &Arc<Version>) -> Result<(Served, Needs), LoadError> {
        let started = Instant::now();
        let name = version.folder.name();
        let model = at_low_priority(|| self.read(version)).map_err(|error| {
            version.metrics.load_failed();
            tracing::error!(model = name, %error, "load failed");
            error
        })?;
        let (took, bytes): (Duration, u64) = (started.elapsed(), model.resident_bytes());
        version.metrics.loaded(took);
        tracing::info!(
            model = name,
            revision = version.folder.revision(),
            engine = model.engine().name(),
            precision = %model.engine().precision(),
            kernels = model.engine().kernels(),
            resident_bytes = bytes,
            load_ms = took.as_millis(),
            "loaded"
        );
        let needs = needs(model.memory());
        Ok((Served { model, version: Arc::clone(version) }, needs))
    }

    fn panicked(&self, version: &Version) -> LoadError {
        version.metrics.load_failed();
        tracing::error!(model = version.folder.name(), "load panicked");
        LoadError::Broken("the loader panicked".to_owned())
    }

    fn outgrew(&self, version: &Version, bytes: u64) -> LoadError {
        version.metrics.load_failed();
        LoadError::Broken(format!("takes {bytes} bytes, more than estimated and than are free"))
    }
}

fn needs(MemoryNeeds { own_bytes, encoder }: MemoryNeeds) -> Needs {
    Needs { own_bytes, shared: encoder }
}

/// On a thread of its own, for a thread that has once been nice cannot stop being it.
fn at_low_priority<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let nice = || {
        // Of no harm where it is not allowed.
        let _ = rustix::process::setpriority_process(None, LOAD_NICENESS);
        work()
    };
    std::thread::scope(|scope| match scope.spawn(nice).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The scheduler's view of a leased model.
#[derive(Clone, Debug)]
pub struct LeasedModel(pub Lease<Served>);

impl BatchModel for LeasedModel {
    fn identity(&self) -> usize {
        // Models that share an encoder differ in what is made of its states.
        let own = || std::ptr::from_ref::<Served>(&self.0) as usize;
        self.0.model.encoder().map_or_else(own, SharedEncoder::address)
    }
    fn owner(&self) -> usize {
        self.0.version.owner()
    }
    fn cost(&self) -> &CostModel {
        &self.0.version.cost
    }
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.0.model.engine().encode(batch)
    }
    fn queued(&self, tokens: usize) {
        self.0.version.metrics.queued(tokens);
    }
    fn dequeued(&self, tokens: usize) {
        self.0.version.metrics.dequeued(tokens);
    }
    fn batched(&self, tokens: usize, jobs: usize) {
        self.0.version.metrics.batch(tokens, jobs);
    }
    fn dropped(&self, reason: DropReason) {
        self.0.version.metrics.dropped(reason);
    }
}

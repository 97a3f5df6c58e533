//! Loads models from their folders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postsort_cache::{Needs, Source};
use postsort_models::{DeviceKind, Encoders, LoadOptions, MemoryNeeds, Model, ModelError};

use super::version::Version;
use crate::devices::{BudgetedDevice, CPU, Devices};
use crate::scheduler::Relief;
use crate::telemetry::{DeviceMetrics, Metrics};

/// How much lower than requests a load is scheduled where both want a CPU, as `nice` has it.
const LOAD_NICENESS: i32 = 15;

/// A loaded model with its revision.
#[derive(Debug)]
pub struct Served {
    /// The model.
    pub model: Model,
    /// Its revision.
    pub version: Arc<Version>,
    /// Where it is: a position among the server's devices.
    pub device: usize,
}

/// Loads models from their folders.
#[derive(Debug)]
pub(super) struct Loader {
    devices: Devices,
    /// How models are loaded, by device.
    options: Vec<LoadOptions>,
    metrics: Vec<DeviceMetrics>,
}

/// Why a load failed.
#[derive(Clone, Debug)]
pub(super) enum LoadError {
    /// What was wrong.
    Broken(String),
    /// Its device has no memory left for it, with nothing there that could be dropped.
    OutOfMemory {
        /// The device.
        device: String,
        /// What it said.
        reason: String,
    },
    /// The folder is not any more what it was when it was described.
    Changed,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(reason) => f.write_str(reason),
            Self::OutOfMemory { device, reason } => {
                write!(f, "out of memory on {device}: {reason}")
            }
            Self::Changed => f.write_str("the folder has changed since it was read"),
        }
    }
}

impl Loader {
    /// Loads as `options` say, but on the devices of the server, with what models share kept apart
    /// for each of them.
    pub(super) fn new(options: &LoadOptions, devices: Devices, metrics: &Metrics) -> Self {
        let on = |device: &BudgetedDevice| LoadOptions {
            device: Arc::clone(&device.device),
            encoders: Encoders::default(),
            ..options.clone()
        };
        Self {
            options: devices.iter().map(on).collect(),
            metrics: devices.names().iter().map(|name| metrics.device(name)).collect(),
            devices,
        }
    }

    /// Where a model goes: where its manifest says, else where the settings say; to the CPU if it
    /// could never fit there.
    pub(super) fn device(&self, version: &Version) -> Result<usize, LoadError> {
        if version.is_copy() {
            return Ok(CPU);
        }
        let kind = version.folder.manifest().device.unwrap_or(DeviceKind::Auto);
        let device = self.devices.position(kind).ok_or_else(|| {
            let names = self.devices.names().join(", ");
            LoadError::Broken(format!("its manifest wants device {kind}, the server has {names}"))
        })?;
        let bytes_max = self.options[device].resident_bytes_estimate(&version.folder);
        let fits = bytes_max <= self.devices.budgets()[device].bytes;
        Ok(if fits { device } else { CPU })
    }

    /// A device had no memory left; what was done about it.
    pub(super) fn relieved(&self, device: usize, relief: Relief) {
        tracing::warn!(
            device = self.devices.names()[device],
            relief = relief.as_str(),
            "out of memory"
        );
        self.metrics[device].ran_out_of_memory(relief);
    }

    fn read(&self, version: &Version, device: usize) -> Result<Model, LoadError> {
        // Where tensors lie was read when the folder was found: what has replaced it since would
        // be read at the wrong places.
        let broken = |error: ModelError| match error {
            ModelError::OutOfMemory { reason } => {
                LoadError::OutOfMemory { device: self.devices.names().remove(device), reason }
            }
            error => LoadError::Broken(error.to_string()),
        };
        if !version.folder.is_unchanged().map_err(broken)? {
            return Err(LoadError::Changed);
        }
        let model = Model::load(&version.folder, &self.options[device]).map_err(broken)?;
        version.cost.fit(&model.warm_up().map_err(broken)?);
        Ok(model)
    }
}

impl Source for Loader {
    type Spec = Version;
    type Model = Served;
    type Error = LoadError;

    fn estimate(&self, version: &Version) -> Result<Needs, LoadError> {
        let device = self.device(version)?;
        Ok(needs(device, self.options[device].memory_needs(&version.folder)))
    }

    fn load(&self, version: &Arc<Version>, device: usize) -> Result<(Served, Needs), LoadError> {
        let started = Instant::now();
        let name = version.folder.name();
        let model = at_low_priority(|| self.read(version, device)).inspect_err(|error| {
            // What finds no memory is tried again, or elsewhere.
            if !self.is_out_of_memory(error) {
                version.metrics.load_failed();
                tracing::error!(model = name, %error, "load failed");
            }
        })?;
        let (took, bytes): (Duration, u64) = (started.elapsed(), model.resident_bytes());
        version.metrics.loaded(took);
        tracing::info!(
            model = name,
            revision = version.folder.revision(),
            device = model.engine().device(),
            engine = model.engine().name(),
            precision = %model.engine().precision(),
            kernels = model.engine().kernels(),
            resident_bytes = bytes,
            load_ms = took.as_millis(),
            "loaded"
        );
        let needs = needs(device, model.memory());
        Ok((Served { model, version: Arc::clone(version), device }, needs))
    }

    fn is_out_of_memory(&self, error: &LoadError) -> bool {
        matches!(error, LoadError::OutOfMemory { .. })
    }

    fn ran_out_of_memory(&self, device: usize, evicted: usize) {
        let relief = if evicted > 0 { Relief::Evicted } else { Relief::FellBack };
        self.relieved(device, relief);
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

fn needs(device: usize, MemoryNeeds { own_bytes, encoder }: MemoryNeeds) -> Needs {
    Needs { device, own_bytes, shared: encoder }
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

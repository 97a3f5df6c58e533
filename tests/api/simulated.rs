//! A device that computes on the CPU but has memory of its own, which runs out on cue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postsort_models::{
    Agreement, ComputeDevice, CpuDevice, DeviceMemory, Encoders, Encoding, Engine, LoadOptions,
    MemoryNeeds, ModelError, ModelFolder, Precision, SharedEncoder, TextTokenizer,
};

/// What a pass takes for each of its tokens.
pub(crate) const TOKEN_BYTES: u64 = 10;

/// All clones are the same device.
#[derive(Clone, Debug)]
pub(crate) struct Simulated(Arc<State>);

#[derive(Debug)]
struct State {
    total_bytes: u64,
    /// What models have of it.
    models_bytes: AtomicU64,
    /// What somebody else has of it, whom no budget knows.
    others_bytes: AtomicU64,
    encoders: Encoders,
    passes: AtomicU64,
    /// Beside its tokens: large where batches are to be.
    pass_time: Duration,
}

impl Simulated {
    pub(crate) fn new(total_bytes: u64, pass_time: Duration) -> Self {
        Self(Arc::new(State {
            total_bytes,
            models_bytes: AtomicU64::new(0),
            others_bytes: AtomicU64::new(0),
            encoders: Encoders::default(),
            passes: AtomicU64::new(0),
            pass_time,
        }))
    }

    /// Somebody else takes all but so much of what is free now.
    pub(crate) fn leave(&self, bytes: u64) {
        let models_bytes = self.0.models_bytes.load(Ordering::SeqCst);
        self.0.others_bytes.store(self.0.total_bytes - models_bytes - bytes, Ordering::SeqCst);
    }

    /// Nobody else is there.
    pub(crate) fn leave_all(&self) {
        self.0.others_bytes.store(0, Ordering::SeqCst);
    }

    /// Bytes of models on it.
    pub(crate) fn models_bytes(&self) -> u64 {
        self.0.models_bytes.load(Ordering::SeqCst)
    }

    /// Passes that were computed on it.
    pub(crate) fn passes(&self) -> u64 {
        self.0.passes.load(Ordering::SeqCst)
    }

    fn free_bytes(&self) -> u64 {
        let taken = self.models_bytes() + self.0.others_bytes.load(Ordering::SeqCst);
        self.0.total_bytes.saturating_sub(taken)
    }

    fn needs(&self, bytes: u64) -> Result<(), ModelError> {
        let free = self.free_bytes();
        if bytes > free {
            return Err(ModelError::OutOfMemory { reason: format!("{bytes} bytes of {free}") });
        }
        Ok(())
    }

    fn on_cpu(&self, options: &LoadOptions) -> LoadOptions {
        LoadOptions {
            device: Arc::new(CpuDevice),
            encoders: self.0.encoders.clone(),
            ..options.clone()
        }
    }
}

impl ComputeDevice for Simulated {
    fn name(&self) -> &'static str {
        "cuda:0"
    }

    fn memory(&self) -> Result<DeviceMemory, ModelError> {
        Ok(DeviceMemory { total_bytes: self.0.total_bytes, free_bytes: self.free_bytes() })
    }

    fn bytes_max(&self, folder: &ModelFolder, options: &LoadOptions) -> u64 {
        CpuDevice.bytes_max(folder, &self.on_cpu(options))
    }

    fn memory_needs(&self, folder: &ModelFolder, options: &LoadOptions) -> MemoryNeeds {
        CpuDevice.memory_needs(folder, &self.on_cpu(options))
    }

    fn load(
        &self,
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        options: &LoadOptions,
    ) -> Result<Box<dyn Engine>, ModelError> {
        let engine = CpuDevice.load(folder, tokenizer, &self.on_cpu(options))?;
        let bytes = engine.resident_bytes();
        self.needs(bytes)?;
        self.0.models_bytes.fetch_add(bytes, Ordering::SeqCst);
        Ok(Box::new(OnDevice { engine, bytes, device: self.clone() }))
    }
}

#[derive(Debug)]
struct OnDevice {
    engine: Box<dyn Engine>,
    bytes: u64,
    device: Simulated,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.device.0.models_bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Engine for OnDevice {
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        let tokens: usize = batch.iter().map(|sequence| sequence.ids.len()).sum();
        self.device.needs(tokens as u64 * TOKEN_BYTES)?;
        std::thread::sleep(self.device.0.pass_time);
        self.device.0.passes.fetch_add(1, Ordering::SeqCst);
        self.engine.encode(batch)
    }

    fn logits(&self, states: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.engine.logits(states)
    }

    fn encoder(&self) -> Option<&SharedEncoder> {
        self.engine.encoder()
    }

    fn name(&self) -> &'static str {
        "simulated"
    }

    fn precision(&self) -> Precision {
        self.engine.precision()
    }

    fn device(&self) -> String {
        self.device.name().to_owned()
    }

    fn resident_bytes(&self) -> u64 {
        self.bytes
    }

    fn agreement(&self) -> Option<Agreement> {
        self.engine.agreement()
    }
}

//! The CPU: the fast engine for what it knows, candle for the rest.

use candle_core::Device;

use super::{ComputeDevice, DeviceMemory, SystemMemory};
use crate::candle;
use crate::cpu::{self, CpuEngine, Known};
use crate::engine::{Engine, EngineKind, Precision};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::model::{LoadOptions, MemoryNeeds};
use crate::tokenize::TextTokenizer;

/// The CPU, with the memory that this process may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuDevice;

impl ComputeDevice for CpuDevice {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn memory(&self) -> Result<DeviceMemory, ModelError> {
        let memory = SystemMemory::take();
        let (total_bytes, used_bytes) = (memory.total_bytes(), memory.used_bytes());
        Ok(DeviceMemory { total_bytes, free_bytes: total_bytes.saturating_sub(used_bytes) })
    }

    fn bytes_max(&self, folder: &ModelFolder, options: &LoadOptions) -> u64 {
        let (own_bytes, encoder_bytes, _) = bytes_max(folder, options);
        own_bytes + encoder_bytes
    }

    fn memory_needs(&self, folder: &ModelFolder, options: &LoadOptions) -> MemoryNeeds {
        let (own_bytes, encoder_bytes, known) = bytes_max(folder, options);
        match known.and_then(|known| known.key(folder)) {
            Some(key) => MemoryNeeds { own_bytes, encoder: Some((key, encoder_bytes)) },
            None => MemoryNeeds { own_bytes: own_bytes + encoder_bytes, encoder: None },
        }
    }

    fn load(
        &self,
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        options: &LoadOptions,
    ) -> Result<Box<dyn Engine>, ModelError> {
        let precision = options.precision(folder);
        if is_fast(folder, options.engine) {
            let pool = options.pool()?;
            let (encoders, cache_dir) = (&options.encoders, options.calibration_dir.as_deref());
            let site = cpu::Site { precision, pool: &pool, encoders, cache_dir };
            if let Some(engine) = CpuEngine::load(folder, tokenizer, &site)? {
                return Ok(Box::new(engine));
            }
        }
        candle::load(folder, precision, &candle::Site::new(Device::Cpu, self.name().to_owned()))
    }
}

/// Whether `folder` runs on the fast engine here.
pub(crate) fn is_fast(folder: &ModelFolder, engine: EngineKind) -> bool {
    engine == EngineKind::Auto && cpu::knows(folder.config())
}

/// Most bytes of the head and of the encoder, and how they will be packed if that is known; by the
/// headers alone.
fn bytes_max(folder: &ModelFolder, options: &LoadOptions) -> (u64, u64, Option<Known>) {
    let Some(parts) = folder.parts().filter(|_| is_fast(folder, options.engine)) else {
        return (candle::bytes_max(folder), 0, None);
    };
    let wanted = options.precision(folder);
    let known = CpuEngine::known(folder, wanted, options.calibration_dir.as_deref());
    let element_bytes = match known.as_ref().map(|known| known.precision) {
        Some(Precision::Int8) => 1,
        Some(Precision::Bf16) => 2,
        // Before another precision can be used the model is measured in f32.
        _ => 4,
    };
    let (table_bytes, table_elements) = parts
        .tables()
        .into_iter()
        .map(|table| folder.table_size(table))
        .fold((0, 0), |all, own| (all.0 + own.0, all.1 + own.1));
    let head = parts.head_elements();
    let dense = folder.weights.elements().saturating_sub(table_elements + head);
    // Biases, scales and padding are within a twentieth of the products.
    let derived = folder.config().derived_bytes() + folder.config().angle_bytes();
    let encoder_bytes = table_bytes + dense * element_bytes * 21 / 20 + derived + (1 << 19);
    (head * 4 * 21 / 20 + (1 << 19), encoder_bytes, known)
}

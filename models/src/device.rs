//! Where models live and compute: devices, and how much memory each has.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod system;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::model::{LoadOptions, MemoryNeeds};
use crate::tokenize::TextTokenizer;

pub use cpu::CpuDevice;
pub(crate) use cpu::is_fast;
#[cfg(feature = "cuda")]
pub(crate) use cuda::is_out_of_memory;
pub use system::SystemMemory;

/// Where models live and compute. A load or a batch for which it has no memory left ends in
/// [`ModelError::OutOfMemory`] and leaves what is there as it was: room can be made, and the same
/// tried again.
pub trait ComputeDevice: Send + Sync + fmt::Debug {
    /// `cpu`, `cuda:0`.
    fn name(&self) -> &str;

    /// Its memory now, as the system or the driver has it.
    ///
    /// # Errors
    /// The driver does not say.
    fn memory(&self) -> Result<DeviceMemory, ModelError>;

    /// Bytes of its memory that `folder` takes at most, while it is loaded and after; by the
    /// headers alone.
    fn bytes_max(&self, folder: &ModelFolder, options: &LoadOptions) -> u64;

    /// The same, with what other models may share apart. May read the weights once.
    fn memory_needs(&self, folder: &ModelFolder, options: &LoadOptions) -> MemoryNeeds;

    /// Brings the weights there; what comes back computes batches there.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`]; a file that does not fit the configuration; a precision that
    /// is not to be had there.
    fn load(
        &self,
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        options: &LoadOptions,
    ) -> Result<Box<dyn Engine>, ModelError>;
}

/// Memory of a device at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All of it; of the CPU what this process may use.
    pub total_bytes: u64,
    /// What nobody uses.
    pub free_bytes: u64,
}

/// A device by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceKind {
    /// A GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl DeviceKind {
    /// The device, ready to be used.
    ///
    /// # Errors
    /// [`ModelError::Device`]: it is not there, or this binary cannot use it.
    pub fn open(self) -> Result<Arc<dyn ComputeDevice>, ModelError> {
        match self {
            Self::Cpu => Ok(Arc::new(CpuDevice)),
            Self::Auto => Ok(open_cuda(0).unwrap_or_else(|_| Arc::new(CpuDevice))),
            Self::Cuda(number) => open_cuda(number).map_err(|reason| {
                let device = self.to_string();
                ModelError::Device { device, reason }
            }),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<Arc<dyn ComputeDevice>, String> {
    match cuda::CudaDevice::open(number) {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize) -> Result<Arc<dyn ComputeDevice>, String> {
    Err("this binary was built without the feature `cuda`".to_owned())
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl From<DeviceKind> for String {
    fn from(device: DeviceKind) -> Self {
        device.to_string()
    }
}

impl TryFrom<String> for DeviceKind {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for DeviceKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is none of auto, cpu, cuda:N")),
        }
    }
}

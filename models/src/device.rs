//! Where to compute.

use std::fmt;
use std::str::FromStr;

use crate::error::ModelError;

/// A device by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    pub(crate) fn open(self) -> Result<candle_core::Device, ModelError> {
        let fails = |reason: String| ModelError::Device { device: self.to_string(), reason };
        match self {
            Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Auto => Ok(candle_core::Device::cuda_if_available(0)?),
            Self::Cuda(_) if !candle_core::utils::cuda_is_available() => {
                Err(fails("this binary was built without the feature `cuda`".to_owned()))
            }
            Self::Cuda(number) => {
                candle_core::Device::new_cuda(number).map_err(|error| fails(error.to_string()))
            }
        }
    }
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

//! NVIDIA GPUs, through candle and the driver. Behind the feature `cuda`.

use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::{Device, Error};

use super::{ComputeDevice, DeviceMemory};
use crate::candle;
use crate::engine::Engine;
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::model::{LoadOptions, MemoryNeeds};
use crate::tokenize::TextTokenizer;

/// One GPU. All models on it share one context.
#[derive(Debug)]
pub(super) struct CudaDevice {
    site: candle::Site,
}

impl CudaDevice {
    pub(super) fn open(number: usize) -> Result<Self, ModelError> {
        let device = Device::new_cuda(number)?;
        Ok(Self { site: candle::Site::new(device, format!("cuda:{number}")) })
    }
}

impl ComputeDevice for CudaDevice {
    fn name(&self) -> &str {
        &self.site.name
    }

    fn memory(&self) -> Result<DeviceMemory, ModelError> {
        let stream = self.site.device.as_cuda_device()?.cuda_stream();
        let (free, total) = stream.context().mem_get_info().w()?;
        Ok(DeviceMemory { total_bytes: total as u64, free_bytes: free as u64 })
    }

    fn bytes_max(&self, folder: &ModelFolder, _: &LoadOptions) -> u64 {
        candle::bytes_max(folder)
    }

    fn memory_needs(&self, folder: &ModelFolder, _: &LoadOptions) -> MemoryNeeds {
        MemoryNeeds { own_bytes: candle::bytes_max(folder), encoder: None }
    }

    fn load(
        &self,
        folder: &ModelFolder,
        _: &TextTokenizer,
        options: &LoadOptions,
    ) -> Result<Box<dyn Engine>, ModelError> {
        candle::load(folder, options.precision(folder), &self.site)
    }
}

/// Whether the driver, or a library above it, had no memory to give.
pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::WithBacktrace { inner, .. }
        | Error::Context { inner, .. }
        | Error::WithPath { inner, .. } => is_out_of_memory(inner),
        Error::Cuda(cause) => match cause.downcast_ref::<CudaError>() {
            Some(CudaError::Cuda(error) | CudaError::Load { cuda: error, .. }) => {
                error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
            }
            Some(CudaError::Cublas(error)) => error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
            _ => false,
        },
        _ => false,
    }
}

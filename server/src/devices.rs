//! The devices of a server, and what models may take of each.

use std::sync::Arc;

use postsort_cache::Budget;
use postsort_models::{ComputeDevice, CpuDevice, DeviceKind, DeviceMemory};
use serde::Serialize;

use crate::error::Error;
use crate::memory::MemoryLimit;

/// Position of the CPU among a server's devices.
pub const CPU: usize = 0;

/// The CPU, which is always there, and the device beside it that models prefer.
#[derive(Clone, Debug)]
pub struct Devices(Vec<BudgetedDevice>);

/// A device, and what models may take of it.
#[derive(Clone, Debug)]
pub struct BudgetedDevice {
    /// The device.
    pub device: Arc<dyn ComputeDevice>,
    /// Bytes that all models on it together may take.
    pub budget_bytes: u64,
}

/// A device's memory, and what models have of it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct DeviceUsage {
    /// The device's name.
    pub device: String,
    /// Bytes of models on it, those being loaded included.
    pub models_bytes: u64,
    /// Bytes that models may take.
    pub budget_bytes: u64,
    /// All of its memory, if it says.
    pub total_bytes: Option<u64>,
    /// What nobody uses of it, if it says.
    pub free_bytes: Option<u64>,
}

impl Devices {
    /// The CPU alone.
    #[must_use]
    pub fn cpu(budget_bytes: u64) -> Self {
        Self(vec![BudgetedDevice { device: Arc::new(CpuDevice), budget_bytes }])
    }

    /// Another device beside it, where models go unless their manifests say otherwise.
    #[must_use]
    pub fn with(mut self, device: Arc<dyn ComputeDevice>, budget_bytes: u64) -> Self {
        self.0.truncate(1);
        self.0.push(BudgetedDevice { device, budget_bytes });
        self
    }

    /// Opens the device of the settings. On a GPU models may take as much as the limit says of its
    /// memory, and no more than others leave of it now.
    ///
    /// # Errors
    /// It is not there, or this binary cannot use it.
    pub fn open(kind: DeviceKind, cpu_bytes: u64, limit: MemoryLimit) -> Result<Self, Error> {
        let unusable = |error| Error::setup("setting device", error);
        let device = kind.open().map_err(unusable)?;
        let cpu = Self::cpu(cpu_bytes);
        if device.name() == cpu.0[CPU].device.name() {
            return Ok(cpu);
        }
        let DeviceMemory { total_bytes, free_bytes } = device.memory().map_err(unusable)?;
        Ok(cpu.with(device, limit.of(total_bytes).min(free_bytes)))
    }

    /// All of them, the CPU first.
    pub fn iter(&self) -> impl Iterator<Item = &BudgetedDevice> {
        self.0.iter()
    }

    /// Their names, in this order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.iter().map(|budgeted| budgeted.device.name().to_owned()).collect()
    }

    /// What models may take of each, in this order.
    #[must_use]
    pub fn budgets(&self) -> Vec<Budget> {
        let budget = |budgeted: &BudgetedDevice| Budget {
            device: budgeted.device.name().to_owned(),
            bytes: budgeted.budget_bytes,
        };
        self.iter().map(budget).collect()
    }

    /// Position of the device where models go unless their manifests say otherwise.
    #[must_use]
    pub fn preferred(&self) -> usize {
        self.0.len() - 1
    }

    /// That device.
    #[must_use]
    pub fn preferred_device(&self) -> &BudgetedDevice {
        &self.0[self.preferred()]
    }

    /// Position of the device that a manifest asks for; `None` if this server has no such device.
    #[must_use]
    pub fn position(&self, kind: DeviceKind) -> Option<usize> {
        match kind {
            DeviceKind::Auto => Some(self.preferred()),
            named => self.names().iter().position(|name| *name == named.to_string()),
        }
    }

    /// The memory of each now, with what models have of it.
    #[must_use]
    pub fn usage(&self, models: &[(u64, Budget)]) -> Vec<DeviceUsage> {
        let usage = |(budgeted, (models_bytes, budget)): (&BudgetedDevice, &(u64, Budget))| {
            let memory = budgeted.device.memory().ok();
            DeviceUsage {
                device: budget.device.clone(),
                models_bytes: *models_bytes,
                budget_bytes: budget.bytes,
                total_bytes: memory.map(|memory| memory.total_bytes),
                free_bytes: memory.map(|memory| memory.free_bytes),
            }
        };
        self.iter().zip(models).map(usage).collect()
    }
}

#[cfg(test)]
mod tests {
    use postsort_models::DeviceKind;

    use super::{CPU, Devices};
    use crate::memory::MemoryLimit;

    #[test]
    fn models_go_to_the_cpu_where_there_is_nothing_else() {
        let devices = Devices::open(DeviceKind::Cpu, 100, MemoryLimit::Percent(80)).expect("a CPU");
        assert_eq!((devices.names(), devices.preferred()), (vec!["cpu".to_owned()], CPU));
        assert_eq!(devices.position(DeviceKind::Auto), Some(CPU));
        assert_eq!(devices.position(DeviceKind::Cuda(0)), None);
        let usage = devices.usage(&[(7, devices.budgets().remove(CPU))]);
        assert_eq!((usage[0].models_bytes, usage[0].budget_bytes), (7, 100));
        assert!(usage[0].free_bytes <= usage[0].total_bytes, "{usage:?}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_is_not_there_is_told_at_the_start() {
        let error = Devices::open(DeviceKind::Cuda(1), 100, MemoryLimit::Percent(80));
        let error = error.expect_err("no GPU").to_string();
        assert!(error.contains("device cuda:1") && error.contains("feature"), "{error}");
    }
}

//! Metrics of a device.

use super::exposition::Exposition;
use super::metrics::Metrics;
use super::names;
use super::registry::Counter;
use crate::devices::DeviceUsage;
use crate::scheduler::Relief;

/// One device's handles.
#[derive(Debug)]
pub struct DeviceMetrics {
    out_of_memory: [Counter; Relief::ALL.len()],
}

impl DeviceMetrics {
    /// All series of the device exist from here on, at zero.
    pub(super) fn new(metrics: &Metrics, device: &str) -> Self {
        let counter = |relief: Relief| {
            metrics
                .counter(names::OUT_OF_MEMORY, &[("device", device), ("action", relief.as_str())])
        };
        Self { out_of_memory: Relief::ALL.map(counter) }
    }

    /// It had no memory left for a load or a batch; what was done about it.
    pub(crate) fn ran_out_of_memory(&self, relief: Relief) {
        self.out_of_memory[relief as usize].increment(1);
    }
}

/// Memory of each device, read at the scrape.
#[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
pub(super) fn write(devices: &[DeviceUsage], out: &mut Exposition) {
    type Bytes = fn(&DeviceUsage) -> Option<u64>;
    let samples: [(&'static str, Bytes); 4] = [
        (names::MEMORY_USED_BYTES, |usage| Some(usage.models_bytes)),
        (names::BUDGET_BYTES, |usage| Some(usage.budget_bytes)),
        (names::DEVICE_BYTES, |usage| usage.total_bytes),
        (names::DEVICE_FREE_BYTES, |usage| usage.free_bytes),
    ];
    for (name, bytes) in samples {
        for usage in devices {
            if let Some(bytes) = bytes(usage) {
                out.sample(name, &[("device", &usage.device)], bytes as f64);
            }
        }
    }
}

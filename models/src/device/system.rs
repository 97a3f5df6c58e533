//! Memory of the machine and of the control group.

use sysinfo::{MemoryRefreshKind, System};

/// The machine's memory, and the control group's, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct SystemMemory {
    /// The machine's memory.
    pub machine_bytes: u64,
    /// What is in use of the machine's memory.
    pub machine_used_bytes: u64,
    /// The control group's limit and what is in use of it, page cache included; if it has a limit.
    pub group_bytes: Option<(u64, u64)>,
}

impl SystemMemory {
    /// Reads the system now; some tens of microseconds.
    #[must_use]
    pub fn take() -> Self {
        let mut system = System::new();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let machine_bytes = system.total_memory();
        let machine_used_bytes = machine_bytes.saturating_sub(system.available_memory());
        let group_bytes = system
            .cgroup_limits()
            .filter(|group| group.total_memory > 0 && group.total_memory < machine_bytes)
            .map(|group| {
                (group.total_memory, group.total_memory.saturating_sub(group.free_memory))
            });
        Self { machine_bytes, machine_used_bytes, group_bytes }
    }

    /// What this process may use: the control group's limit, or the machine's memory.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.group_bytes.map_or(self.machine_bytes, |(limit, _)| limit)
    }

    /// What is in use of that, by everyone.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.group_bytes.map_or(self.machine_used_bytes, |(_, used)| used)
    }
}

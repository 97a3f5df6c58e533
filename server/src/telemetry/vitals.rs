//! The process, its control group, the machine and the runtime, read when somebody asks.

use std::path::Path;
use std::time::Duration;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use super::exposition::Exposition;
use super::names;
use crate::memory::MemoryReading;

/// One look at the process and what it runs on. Reading takes well under a millisecond.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Vitals {
    /// Memory of the process and of what limits it.
    #[serde(skip)]
    pub memory: MemoryReading,
    /// CPU time of the process.
    pub cpu_seconds: f64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// File descriptors that may be open.
    pub open_files_max: u64,
    /// When the process started, since the epoch.
    pub start_time_seconds: u64,
    /// CPUs that the process may use.
    pub cpus: usize,
    /// Threads that compute.
    pub compute_threads: usize,
    /// Load average of a minute.
    pub load1: f64,
    /// Time the control group waited for its CPU quota.
    pub cpu_throttled_seconds: Option<f64>,
    /// Size and free bytes of the models' file system.
    pub disk_bytes: Option<(u64, u64)>,
    /// What tokio does.
    pub runtime: RuntimeReading,
}

/// What tokio does.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct RuntimeReading {
    /// Network threads.
    pub workers: usize,
    /// Tasks alive.
    pub tasks: usize,
    /// Tasks that wait for a network thread.
    pub queue_tasks: usize,
    /// Time that network threads were busy, all of them together.
    pub busy_seconds: f64,
}

impl Vitals {
    /// Looks now, at the file system of `models_dir` too; `compute_threads` as they were set.
    #[must_use]
    pub fn take(models_dir: &Path, compute_threads: usize) -> Self {
        let mut vitals = Self {
            memory: MemoryReading::take(),
            cpu_seconds: 0.0,
            virtual_bytes: 0,
            threads: 0,
            open_files: 0,
            open_files_max: 0,
            start_time_seconds: 0,
            cpus: crate::config::cpus(),
            compute_threads,
            load1: System::load_average().one,
            cpu_throttled_seconds: throttled(),
            disk_bytes: disk(models_dir),
            runtime: RuntimeReading::take(),
        };
        let Ok(pid) = sysinfo::get_current_pid() else { return vitals };
        let mut system = System::new();
        let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu().with_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, wanted);
        if let Some(process) = system.process(pid) {
            vitals.cpu_seconds =
                Duration::from_millis(process.accumulated_cpu_time()).as_secs_f64();
            vitals.virtual_bytes = process.virtual_memory();
            // The main thread is not among the tasks.
            vitals.threads = process.tasks().map_or(0, std::collections::HashSet::len) as u64 + 1;
            vitals.open_files = process.open_files().unwrap_or(0) as u64;
            vitals.open_files_max = process.open_files_limit().unwrap_or(0) as u64;
            vitals.start_time_seconds = process.start_time();
        }
        vitals
    }

    #[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
    pub(super) fn write(&self, out: &mut Exposition) {
        let memory = &self.memory;
        out.sample(names::PROCESS_CPU, &[], self.cpu_seconds);
        for (name, value) in [
            (names::PROCESS_BYTES, memory.process_bytes),
            (names::PROCESS_VIRTUAL_BYTES, self.virtual_bytes),
            (names::PROCESS_THREADS, self.threads),
            (names::PROCESS_FILES, self.open_files),
            (names::PROCESS_FILES_MAX, self.open_files_max),
            (names::PROCESS_START, self.start_time_seconds),
            (names::MACHINE_CPUS, self.cpus as u64),
            (names::COMPUTE_THREADS, self.compute_threads as u64),
            (names::MACHINE_BYTES, memory.machine_bytes),
            (names::MACHINE_USED_BYTES, memory.machine_used_bytes),
        ] {
            out.sample(name, &[], value as f64);
        }
        out.sample(names::MACHINE_LOAD, &[], self.load1);
        if let Some((limit, used)) = memory.group_bytes {
            out.sample(names::GROUP_BYTES, &[], used as f64);
            out.sample(names::GROUP_BYTES_MAX, &[], limit as f64);
        }
        if let Some(seconds) = self.cpu_throttled_seconds {
            out.sample(names::GROUP_THROTTLED, &[], seconds);
        }
        if let Some((size, free)) = self.disk_bytes {
            out.sample(names::DISK_BYTES, &[], size as f64);
            out.sample(names::DISK_FREE_BYTES, &[], free as f64);
        }
        out.sample(names::RUNTIME_WORKERS, &[], self.runtime.workers as f64);
        out.sample(names::RUNTIME_TASKS, &[], self.runtime.tasks as f64);
        out.sample(names::RUNTIME_QUEUE, &[], self.runtime.queue_tasks as f64);
        out.sample(names::RUNTIME_BUSY, &[], self.runtime.busy_seconds);
    }
}

impl RuntimeReading {
    /// Zero outside of a runtime.
    fn take() -> Self {
        let Ok(handle) = tokio::runtime::Handle::try_current() else { return Self::default() };
        let metrics = handle.metrics();
        let workers = metrics.num_workers();
        let busy: Duration = (0..workers).map(|at| metrics.worker_total_busy_duration(at)).sum();
        Self {
            workers,
            tasks: metrics.num_alive_tasks(),
            queue_tasks: metrics.global_queue_depth(),
            busy_seconds: busy.as_secs_f64(),
        }
    }
}

/// `cpu.stat` of this process's control group, version 2; else of the root, as a container sees it.
fn throttled() -> Option<f64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = format!("/sys/fs/cgroup{}/cpu.stat", path.trim_end_matches('/'));
    let stat = std::fs::read_to_string(own)
        .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/cpu.stat"))
        .ok()?;
    let micros = stat.lines().find_map(|line| line.strip_prefix("throttled_usec "))?;
    micros.trim().parse::<u64>().ok().map(|micros| Duration::from_micros(micros).as_secs_f64())
}

/// Size and free bytes for us.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::Vitals;

    #[tokio::test]
    async fn readings_are_plausible() {
        let vitals = Vitals::take(std::path::Path::new("."), 2);
        assert!(vitals.memory.process_bytes > 1 << 20, "{vitals:?}");
        assert!(vitals.virtual_bytes >= vitals.memory.process_bytes, "{vitals:?}");
        assert!(vitals.threads >= 2, "the test runs on a thread of its own: {vitals:?}");
        assert!(vitals.open_files >= 3 && vitals.open_files < vitals.open_files_max, "{vitals:?}");
        assert!(vitals.start_time_seconds > 1_600_000_000, "{vitals:?}");
        let (size, free) = vitals.disk_bytes.expect("a file system");
        assert!(free <= size, "{vitals:?}");
        assert_eq!(vitals.runtime.workers, 1);
    }
}

//! Memory of the servers while they are under load.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// A server's process: `[NAME=]PID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// How tables call it; `pid PID` unless given.
    pub name: String,
    /// Its number.
    pub pid: u32,
}

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) =
            text.rsplit_once('=').map_or((None, text), |(name, pid)| (Some(name), pid));
        let pid = pid.parse().map_err(|e| format!("{pid}: {e}"))?;
        Ok(Self { name: name.map_or_else(|| format!("pid {pid}"), str::to_owned), pid })
    }
}

/// Resident bytes; none where the process or the figure is missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resident {
    /// Before the first request.
    pub start: Option<u64>,
    /// Most that was seen.
    pub max: Option<u64>,
    /// After the last answer.
    pub end: Option<u64>,
}

impl Resident {
    fn see(&mut self, bytes: Option<u64>) {
        self.start = self.start.or(bytes);
        self.max = self.max.max(bytes);
        self.end = bytes;
    }
}

/// Looks at processes until it is asked for what it saw.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Vec<(Process, Resident)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Looks for the first time at once.
    #[must_use]
    pub fn start(processes: Vec<Process>) -> Self {
        let seen: Vec<_> =
            processes.into_iter().map(|process| (process, Resident::default())).collect();
        let seen = Arc::new(Mutex::new(seen));
        look(&seen);
        let watched = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                look(&watched);
            }
        });
        Self { seen, task }
    }

    /// Looks for the last time.
    #[must_use]
    pub fn end(self) -> Vec<(Process, Resident)> {
        self.task.abort();
        look(&self.seen);
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn look(seen: &Mutex<Vec<(Process, Resident)>>) {
    for (process, resident) in &mut *seen.lock().unwrap_or_else(PoisonError::into_inner) {
        resident.see(resident_bytes(process.pid));
    }
}

/// `VmRSS` of `/proc/PID/status`.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_a_name() {
        let process: Process = "A=12".parse().expect("process");
        assert_eq!(process, Process { name: "A".into(), pid: 12 });
        assert_eq!("12".parse::<Process>().expect("process").name, "pid 12");
        assert!("A=".parse::<Process>().is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_there_is_seen() {
        let here = Process { name: "here".into(), pid: std::process::id() };
        let gone = Process { name: "gone".into(), pid: u32::MAX };
        let seen = Watch::start(vec![here, gone]).end();
        let (_, here) = &seen[0];
        assert!(here.start.is_some_and(|bytes| bytes > 100_000) && here.max >= here.end);
        assert!(seen[1].1.max.is_none());
    }
}

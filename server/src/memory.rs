//! How much memory there is, and how much of it models may take.

use std::fmt;
use std::str::FromStr;

use postsort_models::SystemMemory;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// The most memory that models may take: bytes, or a share of what the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// This many bytes.
    Bytes(u64),
    /// This share of the memory that there is, 1–100.
    Percent(u8),
}

impl MemoryLimit {
    /// The limit in bytes on this machine.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(_) => self.of(SystemMemory::take().total_bytes()),
        }
    }

    /// The limit in bytes where there are `total_bytes`.
    #[must_use]
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let share = u128::from(total_bytes) * u128::from(percent) / 100;
                u64::try_from(share).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = String;

    /// `2147483648`, `512MiB`, `2GB`, `80%`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("`{text}` is neither bytes (2147483648, 512MiB, 2GB) nor a share (80%)");
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.trim().parse().map_err(|_| wrong())?;
            return if (1..=100).contains(&percent) {
                Ok(Self::Percent(percent))
            } else {
                Err(wrong())
            };
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" | "K" | "k" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Self::Bytes).ok_or_else(wrong)
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug)]
pub struct MemoryReading {
    /// What the process may use: the control group's limit or the machine's memory.
    pub total_bytes: u64,
    /// What is in use of that, by everyone.
    pub used_bytes: u64,
    /// Resident set of this process.
    pub process_bytes: u64,
    /// The machine's memory.
    pub machine_bytes: u64,
    /// What is in use of the machine's memory.
    pub machine_used_bytes: u64,
    /// The control group's limit and what is in use of it, page cache included; if it has a limit.
    pub group_bytes: Option<(u64, u64)>,
}

impl MemoryReading {
    /// Reads the system now; some tens of microseconds.
    #[must_use]
    pub fn take() -> Self {
        let memory = SystemMemory::take();
        let (total_bytes, used_bytes) = (memory.total_bytes(), memory.used_bytes());
        let SystemMemory { machine_bytes, machine_used_bytes, group_bytes } = memory;
        let mut system = System::new();
        let process_bytes = sysinfo::get_current_pid().map_or(0, |pid| {
            system.refresh_processes_specifics(
                ProcessesToUpdate::Some(&[pid]),
                false,
                ProcessRefreshKind::nothing().with_memory(),
            );
            system.process(pid).map_or(0, sysinfo::Process::memory)
        });
        Self {
            total_bytes,
            used_bytes,
            process_bytes,
            machine_bytes,
            machine_used_bytes,
            group_bytes,
        }
    }

    /// The share of the memory that this process may use which it has resident. Others' memory and
    /// the page cache are not the server's doing, so they are not counted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn process_share(&self) -> f64 {
        self.process_bytes as f64 / self.total_bytes.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryLimit, MemoryReading};

    #[test]
    fn limits_parse() {
        let parse = |text: &str| text.parse::<MemoryLimit>();
        assert_eq!(parse("80%"), Ok(MemoryLimit::Percent(80)));
        assert_eq!(parse("512MiB"), Ok(MemoryLimit::Bytes(512 << 20)));
        assert_eq!(parse("2 GB"), Ok(MemoryLimit::Bytes(2_000_000_000)));
        assert_eq!(parse("12345"), Ok(MemoryLimit::Bytes(12_345)));
        for wrong in ["", "0%", "101%", "-1", "3 parsecs", "99999999999GiB", "%"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_reading_is_plausible() {
        let reading = MemoryReading::take();
        assert!(reading.process_bytes > 1 << 20, "{reading:?}");
        assert!(reading.used_bytes <= reading.total_bytes, "{reading:?}");
        assert!(MemoryLimit::Percent(50).bytes() <= reading.total_bytes / 2 + 1);
    }
}

//! Which instruction set is used: what the CPU has, or what the environment forces.

use std::fmt;
use std::str::FromStr;

use crate::error::CpuError;

/// Instruction sets that kernels are compiled for, from the plainest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelLevel {
    /// Plain Rust.
    Scalar,
    /// 128-bit vectors of aarch64.
    Neon,
    /// 256-bit vectors with FMA.
    Avx2,
    /// AVX2 with 8-bit products.
    AvxVnni,
    /// 512-bit vectors.
    Avx512,
    /// AVX-512 with 8-bit products.
    Avx512Vnni,
    /// AVX-512 with 8-bit and bf16 products.
    Avx512Bf16,
}

impl KernelLevel {
    /// All, from the plainest to the fastest.
    pub const ALL: [Self; 7] = [
        Self::Scalar,
        Self::Neon,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
    ];

    /// Whether this CPU has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => has_avx2() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => has_avx512() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            // Levels of other architectures.
            _ => false,
        }
    }

    /// The fastest that this CPU has. Intel's have bf16 products for AMX's sake: as vector
    /// instructions they run at half the rate of f32's (186 and 370 GFLOP/s on two cores of Emerald
    /// Rapids), where AMD's run at twice that.
    #[must_use]
    pub fn best() -> Self {
        let is_fast = |level: &Self| *level != Self::Avx512Bf16 || !is_intel();
        let mut levels = Self::ALL.into_iter().rev().filter(is_fast);
        levels.find(|level| level.is_available()).unwrap_or(Self::Scalar)
    }

    /// The level that differs from this one in whether attention multiplies bf16, and in nothing else
    /// of 8-bit passes, where this CPU can run it.
    #[must_use]
    pub fn with_other_attention(self) -> Option<Self> {
        let other = match self {
            Self::Avx512Vnni => Self::Avx512Bf16,
            Self::Avx512Bf16 => Self::Avx512Vnni,
            _ => return None,
        };
        other.is_available().then_some(other)
    }

    /// The one named by `POSTSORT_KERNEL`, or the best.
    ///
    /// # Errors
    /// The variable names none, or one that this CPU lacks.
    pub fn from_env() -> Result<Self, CpuError> {
        match std::env::var(KERNEL_VARIABLE) {
            Ok(name) if !name.is_empty() && name != "auto" => name.parse(),
            _ => Ok(Self::best()),
        }
    }

    /// The name that forces it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

/// The environment variable that forces a level.
pub const KERNEL_VARIABLE: &str = "POSTSORT_KERNEL";

impl fmt::Display for KernelLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KernelLevel {
    type Err = CpuError;
    fn from_str(name: &str) -> Result<Self, CpuError> {
        let level = Self::ALL.into_iter().find(|level| level.name() == name);
        let level = level.ok_or_else(|| CpuError::UnknownKernel { name: name.to_owned() })?;
        if level.is_available() {
            Ok(level)
        } else {
            Err(CpuError::KernelUnavailable { level, best: Self::best() })
        }
    }
}

/// Whose CPU this is: what a level's instructions cost beside one another depends on it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_intel() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn is_intel() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// What this CPU offers and which kernels engines use on it.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// Features that the kernels could use, as the CPU reports them.
    pub cpu_features: Vec<&'static str>,
    /// Levels that this CPU can run.
    pub available: Vec<KernelLevel>,
    /// The level in use.
    pub level: KernelLevel,
    /// Why the level is not the one that the environment names, if so.
    pub warning: Option<String>,
    /// Products in f32.
    pub f32: &'static str,
    /// Products in bf16.
    pub bf16: &'static str,
    /// 8-bit products.
    pub int8: &'static str,
}

/// CPU features found and kernels chosen; `POSTSORT_KERNEL` is taken into account.
#[must_use]
pub fn kernels() -> KernelReport {
    let (level, warning) = match KernelLevel::from_env() {
        Ok(level) => (level, None),
        Err(error) => (KernelLevel::best(), Some(error.to_string())),
    };
    let (f32, bf16, int8) = match level {
        KernelLevel::Scalar => ("scalar", "scalar, emulated", "scalar"),
        KernelLevel::Neon => ("neon fmla", "neon fmla, emulated", "neon smull"),
        KernelLevel::Avx2 => ("avx2 fma", "avx2 fma, emulated", "avx2 vpmaddwd"),
        KernelLevel::AvxVnni => ("avx2 fma", "avx2 fma, emulated", "avx-vnni vpdpbusd"),
        KernelLevel::Avx512 => ("avx512 fma", "avx512 fma, emulated", "avx512 vpmaddwd"),
        KernelLevel::Avx512Vnni => ("avx512 fma", "avx512 fma, emulated", "avx512 vpdpbusd"),
        KernelLevel::Avx512Bf16 => ("avx512 fma", "avx512 vdpbf16ps", "avx512 vpdpbusd"),
    };
    KernelReport {
        cpu_features: cpu_features(),
        available: KernelLevel::ALL.into_iter().filter(|level| level.is_available()).collect(),
        level,
        warning,
        f32,
        bf16,
        int8,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let all = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    if KernelLevel::Neon.is_available() { vec!["neon"] } else { Vec::new() }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

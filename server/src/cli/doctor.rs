//! `postsort doctor`: what this machine offers and what is wrong with which model.

use super::{Settings, print};
use crate::config::cpus;
use crate::error::Error;
use crate::memory::MemoryReading;

#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    settings: Settings,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Error> {
        let config = self.settings.resolve()?;
        let memory = MemoryReading::take();
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let mut lines = vec![
            format!("postsort      {}", env!("CARGO_PKG_VERSION")),
            format!("CPU features  {}", cpu_features().join(" ")),
            format!(
                "CPUs          {} given to this process; {} compute threads",
                cpus(),
                config.threads
            ),
            format!("engine        candle, f32, device {}", config.device),
            format!(
                "memory        {} in all, {} in use; budget for models {}",
                mib(memory.total_bytes),
                mib(memory.used_bytes),
                mib(config.memory_bytes_max)
            ),
            format!("result cache  up to {}", mib(config.result_cache_bytes_max)),
            format!("models        {}", config.models_dir.display()),
        ];
        let found = postsort_models::discover(&config.models_dir)
            .map_err(|e| Error::setup(config.models_dir.display().to_string(), e))?;
        let mut broken = 0;
        for found in &found {
            lines.push(match &found.folder {
                Ok(folder) => {
                    let estimate = folder.resident_bytes_estimate(config.precision);
                    let fits = if estimate > config.memory_bytes_max {
                        ", LARGER THAN THE BUDGET"
                    } else {
                        ""
                    };
                    format!(
                        "  ok    {}: {:?}, {} layers of {}, up to {} tokens, {} in memory{fits}",
                        found.name,
                        folder.config().architecture,
                        folder.config().layers,
                        folder.config().hidden,
                        folder.tokens_max(),
                        mib(estimate)
                    )
                }
                Err(error) => {
                    broken += 1;
                    format!("  WRONG {}: {error}", found.name)
                }
            });
        }
        if found.is_empty() {
            lines.push("  none: a model is a sub-folder with config.json, tokenizer.json and model.safetensors".to_owned());
        }
        print(&lines.join("\n"))?;
        match broken {
            0 => Ok(()),
            count => Err(Error::setup("doctor", format!("{count} unusable model folder(s)"))),
        }
    }
}

fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let all = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let all = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all: [(&'static str, bool); 0] = [];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

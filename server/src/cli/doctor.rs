//! `postsort doctor`: what this machine offers and what is wrong with which model.

use postsort_models::DeviceMemory;

use super::{Settings, print};
use crate::config::cpus;
use crate::devices::BudgetedDevice;
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    settings: Settings,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Error> {
        let config = self.settings.resolve()?;
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let kernels = postsort_models::kernels();
        let options = config.load_options()?;
        let mut lines = vec![
            format!("postsort      {}", env!("CARGO_PKG_VERSION")),
            format!("CPU features  {}", kernels.cpu_features.join(" ")),
            format!(
                "kernels       {}: f32 {}, bf16 {}, int8 {}",
                kernels.level, kernels.f32, kernels.bf16, kernels.int8
            ),
            format!(
                "CPUs          {} given to this process; {} compute threads",
                cpus(),
                config.threads
            ),
            format!("precision     {}", config.precision),
        ];
        for BudgetedDevice { device, budget_bytes } in config.devices.iter() {
            let memory = device.memory().map_or_else(
                |error| error.to_string(),
                |DeviceMemory { total_bytes, free_bytes }| {
                    format!("{} in all, {} free", mib(total_bytes), mib(free_bytes))
                },
            );
            let budget = mib(*budget_bytes);
            lines.push(format!(
                "device        {}: {memory}; budget for models {budget}",
                device.name()
            ));
        }
        let preferred = config.devices.preferred_device();
        lines.extend([
            format!(
                "models on     {}, unless their manifests say otherwise",
                preferred.device.name()
            ),
            format!("result cache  up to {}", mib(config.result_cache_bytes_max)),
            format!("models        {}", config.models_dir.display()),
        ]);
        if let Some(warning) = &kernels.warning {
            lines.push(format!("WRONG kernels {warning}"));
        }
        let found = postsort_models::discover(&config.models_dir)
            .map_err(|e| Error::setup(config.models_dir.display().to_string(), e))?;
        let mut broken = usize::from(kernels.warning.is_some());
        for found in &found {
            lines.push(match &found.folder {
                Ok(folder) => {
                    let estimate = options.resident_bytes_estimate(folder);
                    let fits = if estimate > preferred.budget_bytes {
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
            count => Err(Error::setup("doctor", format!("{count} thing(s) wrong, see above"))),
        }
    }
}

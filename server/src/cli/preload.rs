//! `postsort preload`: models fetched, loaded, warm and pinned before the traffic comes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use postsort_models::{Hub, Manifest, ModelError, discover};
use serde_json::json;

use super::bar;
use super::models::{act, table};
use super::remote::{Server, call};
use crate::error::Error;
use crate::hub::{HubClient, Progress};

#[derive(Debug, clap::Args)]
pub(super) struct Preload {
    /// The models
    #[arg(required = true)]
    models: Vec<String>,
    /// Keep them in memory
    #[arg(long)]
    pin: bool,
    /// The server's models folder: fetch from the hub what its manifests name and it lacks
    #[arg(long, value_name = "DIR")]
    fetch_into: Option<PathBuf>,
    /// Only fetch, and ask no server
    #[arg(long, requires = "fetch_into")]
    fetch_only: bool,
    /// How long to wait for the server to come up, in seconds
    #[arg(long, default_value_t = 60, value_name = "S")]
    wait_seconds: u64,
    #[command(flatten)]
    server: Server,
}

impl Preload {
    /// One after the other: loading is bound by the processor. Stops at the first that fails, so
    /// that a deployment does.
    pub(super) fn run(self) -> Result<(), Error> {
        let fetched = match &self.fetch_into {
            Some(dir) => self.fetch(dir)?,
            None => false,
        };
        if self.fetch_only {
            return Ok(());
        }
        self.wait()?;
        if fetched {
            call(&self.server.server, "/v1/models", Some(&json!({})))?;
        }
        let bar =
            bar("{prefix:.bold} {wide_bar} {pos}/{len} {elapsed}", Some(self.models.len() as u64));
        bar.set_prefix("loading");
        let mut shown = Vec::new();
        for model in &self.models {
            let mut info = act(&self.server.server, model, "load", &json!({}))?;
            if self.pin {
                info = act(&self.server.server, model, "pin", &json!({}))?;
            }
            if info["state"] != "ready" {
                let reason = format!("is {} again", info["state"]);
                return Err(Error::setup(format!("model {model}"), reason));
            }
            shown.push(info);
            bar.inc(1);
        }
        bar.finish_and_clear();
        table(&shown)
    }

    /// Until the server answers at all: right after it is started it does not.
    fn wait(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_secs(self.wait_seconds);
        loop {
            match call(&self.server.server, "/v1/models", None) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Whether anything was fetched.
    fn fetch(&self, dir: &std::path::Path) -> Result<bool, Error> {
        let wrong =
            |reason: &dyn std::fmt::Display| Error::setup(dir.display().to_string(), reason);
        let found = discover(dir).map_err(|error| wrong(&error))?;
        let client = HubClient::from_env();
        let mut fetched = false;
        for model in &self.models {
            let found = found.iter().find(|found| found.name == *model);
            let found = found.ok_or_else(|| wrong(&Error::unknown_model(model)))?;
            if !matches!(found.folder, Err(ModelError::NotFetched { .. })) {
                continue;
            }
            let manifest = Manifest::read(&found.path).map_err(|error| wrong(&error))?;
            let Some(hub) = manifest.hub else { continue };
            self.fetch_one(&client, &hub, &found.path)?;
            fetched = true;
        }
        Ok(fetched)
    }

    fn fetch_one(
        &self,
        client: &HubClient,
        hub: &Hub,
        folder: &std::path::Path,
    ) -> Result<(), Error> {
        let bar = bar("{prefix:.bold} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}", Some(0));
        let commit = client.fetch(hub, folder, |Progress { file, bytes, bytes_max }| {
            bar.set_prefix(file.to_owned());
            bar.set_length(bytes_max);
            bar.set_position(bytes);
        })?;
        bar.finish_and_clear();
        super::print(&format!("{} at {commit} is in {}", hub.id, folder.display()))
    }
}

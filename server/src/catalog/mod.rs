//! The models that the server knows, and those of them that are in memory.

mod change;
mod entry;
mod fallback;
mod leased;
mod loader;
mod stats;
mod version;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use postsort_cache::{Backoff, Lease, Residency, ResidencyError, Spec};
use postsort_models::{Found, LoadOptions};

use crate::devices::Devices;
use crate::error::Error;
use crate::telemetry::Metrics;

pub use change::Choice;
pub use entry::{Entry, Shadow, Versions};
pub use leased::LeasedModel;
pub use loader::Served;
use loader::{LoadError, Loader};
pub use version::Version;
pub use watch::Rescanned;

/// The models in a folder. A folder that is itself a model goes by the default model's name, if one
/// is set: where models are mounted each at the same place its own name says nothing.
fn discover(models_dir: &Path, default_model: Option<&str>) -> Result<Vec<Found>, Error> {
    let mut found = postsort_models::discover(models_dir)
        .map_err(|e| Error::setup(format!("models_dir {}", models_dir.display()), e))?;
    if let ([only], Some(name)) = (&mut found[..], default_model)
        && only.path == models_dir
    {
        name.clone_into(&mut only.name);
    }
    Ok(found)
}

/// All models by name.
#[derive(Debug)]
pub struct Catalog {
    residency: Arc<Residency<Loader>>,
    devices: Devices,
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    default_model: Option<String>,
    models_dir: PathBuf,
    metrics: Arc<Metrics>,
    seen: Mutex<watch::Seen>,
}

impl Catalog {
    /// Reads the folder; loads nothing.
    ///
    /// # Errors
    /// The folder cannot be read, or `default_model` is not in it. A broken model folder is not an
    /// error here: it is listed, with what is wrong, and its requests fail.
    pub fn open(
        models_dir: PathBuf,
        options: &LoadOptions,
        (devices, loads_max): (Devices, usize),
        default_model: Option<String>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        let seen = watch::Seen::of(&models_dir);
        let found = discover(&models_dir, default_model.as_deref())?;
        let entries: BTreeMap<_, _> = found
            .into_iter()
            .map(|found| (found.name.clone(), Arc::new(Entry::new(found, metrics))))
            .collect();
        if let Some(name) = default_model.as_ref().filter(|name| !entries.contains_key(*name)) {
            return Err(Error::setup("setting default_model", Error::unknown_model(name)));
        }
        let loader = Loader::new(options, devices.clone(), metrics);
        let residency = Residency::new(loader, devices.budgets(), loads_max, Backoff::default());
        let catalog = Self {
            residency: Arc::new(residency),
            devices,
            entries: RwLock::new(entries),
            default_model,
            models_dir,
            metrics: Arc::clone(metrics),
            seen: Mutex::new(seen),
        };
        catalog.entries().iter().for_each(|entry| catalog.pin_as_the_manifest_says(entry));
        Ok(catalog)
    }

    /// All entries, by name.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.read().values().map(Arc::clone).collect()
    }

    /// The entry of `name`, or of the default model where a request names none.
    ///
    /// # Errors
    /// [`Error::UnknownModel`]; [`Error::Malformed`] where none is named and there is no default.
    pub fn entry(&self, name: Option<&str>) -> Result<Arc<Entry>, Error> {
        let entries = self.entries.read();
        let name = match name {
            Some(name) => name,
            None => self.default_of(&entries).ok_or_else(|| {
                Error::malformed("model", "the name of a model: there is no default")
            })?,
        };
        entries.get(name).map(Arc::clone).ok_or_else(|| Error::unknown_model(name))
    }

    /// The name of the model that answers where a request names none.
    #[must_use]
    pub fn default_model(&self) -> Option<String> {
        self.default_of(&self.entries.read()).map(str::to_owned)
    }

    fn default_of<'a>(&'a self, entries: &'a BTreeMap<String, Arc<Entry>>) -> Option<&'a str> {
        match &self.default_model {
            Some(name) => Some(name),
            None if entries.len() == 1 => entries.keys().next().map(String::as_str),
            None => Some("spam").filter(|name| entries.contains_key(*name)),
        }
    }

    /// The revision in memory; loaded now if it was not. Where its device has no memory for it, its
    /// copy on the CPU.
    ///
    /// # Errors
    /// [`Error::LoadFailed`], [`Error::NoRoom`], [`Error::LargerThanBudget`]; and
    /// [`Error::Superseded`] if another revision answers by now.
    pub async fn acquire(
        &self,
        entry: &Arc<Entry>,
        version: &Arc<Version>,
    ) -> Result<Lease<Served>, Error> {
        match self.acquire_anywhere(version).await {
            Ok(lease) => Ok(lease),
            Err(ResidencyError::Failed { source_error: LoadError::Changed, .. })
                if self.take_what_is_there(entry, version).await =>
            {
                Err(Error::Superseded { model: entry.name.clone() })
            }
            Err(error) => Err(told_of(entry, error)),
        }
    }

    /// The scheduler's view of a leased model.
    #[must_use]
    pub fn leased(&self, lease: &Lease<Served>) -> LeasedModel {
        LeasedModel { lease: lease.clone(), residency: Arc::clone(&self.residency) }
    }

    /// Loads what answers now.
    ///
    /// # Errors
    /// As [`Self::acquire`] and [`Entry::current`].
    pub async fn load(&self, entry: &Arc<Entry>) -> Result<Lease<Served>, Error> {
        loop {
            match self.acquire(entry, &entry.current()?).await {
                Err(Error::Superseded { .. }) => tokio::task::yield_now().await,
                loaded => return loaded,
            }
        }
    }

    /// The model if it is in memory. Looking does not count as use.
    #[must_use]
    pub fn resident(&self, entry: &Entry) -> Option<Lease<Served>> {
        let version = entry.current().ok()?;
        self.residency
            .peek(version.key())
            .or_else(|| self.residency.peek(self.stand_in(&version)?.key()))
    }

    /// Drops the model from memory when its last request ends. Whether it was there.
    pub fn unload(&self, entry: &Entry) -> bool {
        let unload = |version: &Version| self.residency.unload(version.key());
        entry.current().is_ok_and(|version| {
            let copy_was_there = version.copy().is_some_and(|copy| unload(copy));
            unload(&version) || copy_was_there
        })
    }

    /// Keeps the model from being evicted, or allows it.
    pub fn set_pinned(&self, entry: &Entry, pinned: bool) {
        if let Ok(version) = entry.current() {
            self.residency.set_pinned(version.key(), pinned);
        }
    }

    fn pin_as_the_manifest_says(&self, entry: &Entry) {
        if entry.is_pinned_by_manifest() {
            self.set_pinned(entry, true);
        }
    }

    /// Models whose manifest asks to be in memory from the start.
    #[must_use]
    pub fn pinned_by_manifest(&self) -> Vec<String> {
        let pinned = self.entries().into_iter().filter(|entry| entry.is_pinned_by_manifest());
        pinned.map(|entry| entry.name.clone()).collect()
    }

    /// Drops idle models that nobody asked for in this time.
    pub fn evict_unused(&self, for_at_least: Duration) {
        self.residency.evict_unused(for_at_least);
    }
}

fn told_of(entry: &Entry, error: ResidencyError<LoadError>) -> Error {
    let model = entry.name.clone();
    match error {
        ResidencyError::LargerThanBudget { needed_bytes, budget_bytes } => {
            Error::LargerThanBudget { model, needed_bytes, budget_bytes }
        }
        ResidencyError::NoRoom { needed_bytes, free_bytes } => {
            Error::NoRoom { model, needed_bytes, free_bytes }
        }
        ResidencyError::Retired => Error::Superseded { model },
        ResidencyError::Failed { source_error, retry_after } => {
            Error::LoadFailed { model, reason: source_error.to_string(), retry_after }
        }
    }
}

//! New, changed and removed folders, picked up without a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postsort_cache::Spec;
use postsort_models::{Found, Stamp, find, model_paths, stamp};
use serde::Serialize;

use super::entry::Entry;
use super::{Catalog, discover};
use crate::error::Error;

/// What folders looked like when they were last looked at, and last read.
#[derive(Debug, Default)]
pub(super) struct Seen {
    looked: BTreeMap<PathBuf, Stamp>,
    read: BTreeMap<PathBuf, Stamp>,
}

/// What changed in the models folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Rescanned {
    /// Models that are new.
    pub added: Vec<String>,
    /// Models that another revision answers for.
    pub changed: Vec<String>,
    /// Models that are gone.
    pub removed: Vec<String>,
    /// Models whose new revision cannot be used, with the reason; the old one answers on.
    pub refused: BTreeMap<String, String>,
}

impl Seen {
    pub(super) fn of(models_dir: &Path) -> Self {
        let looked = stamps(models_dir);
        Self { read: looked.clone(), looked }
    }

    /// Whether something differs from what was read, and nothing from the last look: a folder that
    /// is being written is left alone until it rests.
    fn look(&mut self, now: BTreeMap<PathBuf, Stamp>) -> bool {
        let rests = now == self.looked;
        self.looked = now;
        rests && self.looked != self.read
    }
}

fn stamps(models_dir: &Path) -> BTreeMap<PathBuf, Stamp> {
    let paths = model_paths(models_dir).unwrap_or_default();
    paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

impl Catalog {
    /// Looks at the models folder: reads it again if it has changed and then rested since the last
    /// look. Takes file metadata only, while nothing changes.
    pub async fn look(&self) {
        let models_dir = self.models_dir.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || stamps(&models_dir)).await else {
            return;
        };
        if !self.seen.lock().look(now) {
            return;
        }
        match self.rescan().await {
            Ok(changes) => tracing::info!(?changes, "models folder read again"),
            Err(error) => tracing::error!(%error, "models folder cannot be read again"),
        }
    }

    /// Reads the models folder again. Models in memory change once their new revision is loaded;
    /// those for which somebody chose a revision stay there.
    ///
    /// # Errors
    /// The folder cannot be read; nothing is changed then.
    pub async fn rescan(&self) -> Result<Rescanned, Error> {
        let (models_dir, name) = (self.models_dir.clone(), self.default_model.clone());
        let read = move || (stamps(&models_dir), discover(&models_dir, name.as_deref()));
        let (stamps, found) =
            tokio::task::spawn_blocking(read).await.map_err(|_| Error::Internal)?;
        let found = found?;
        *self.seen.lock() = Seen { looked: stamps.clone(), read: stamps };

        let mut changes = Rescanned::default();
        let names: BTreeSet<String> = found.iter().map(|found| found.name.clone()).collect();
        for entry in self.entries() {
            if !names.contains(&entry.name) {
                self.remove(&entry);
                changes.removed.push(entry.name.clone());
            }
        }
        for found in found {
            let known = self.entries.read().get(&found.name).map(Arc::clone);
            match known {
                Some(entry) => self.follow(&entry, found, &mut changes).await,
                None => {
                    let entry = Arc::new(Entry::new(found, &self.metrics));
                    // It may be one that was removed, come back as it was.
                    if let Ok(version) = entry.current() {
                        self.revive(&version);
                    }
                    changes.added.push(entry.name.clone());
                    self.entries.write().insert(entry.name.clone(), Arc::clone(&entry));
                    self.pin_as_the_manifest_says(&entry);
                }
            }
        }
        Ok(changes)
    }

    /// The entry's folder was read again.
    async fn follow(&self, entry: &Arc<Entry>, found: Found, changes: &mut Rescanned) {
        // Whoever changes it now has read the folder as well.
        let Ok(_changing) = self.begin_change(entry) else { return };
        let versions = entry.versions();
        entry.change(|versions| versions.available.clone_from(&found.revisions));
        if !versions.following || versions.shadow.is_some() {
            return;
        }
        let mut refused = |reason: String| {
            entry.change(|versions| versions.last_change_error = Some(reason.clone()));
            changes.refused.insert(entry.name.clone(), reason);
        };
        if let Some((label, error)) = found.unreadable.first() {
            refused(format!("revision {label}: {error}"));
        }
        let folder = match found.folder {
            Ok(folder) => folder,
            Err(error) => return refused(error.to_string()),
        };
        let version = entry.version(found.label, folder);
        let in_use = match &versions.current {
            Ok(current) if current.key() == version.key() => return,
            Ok(current) => self.is_in_memory(current),
            Err(_) => false,
        };
        if in_use {
            if let Err(error) = self.beside(entry, version, None).await {
                changes.refused.insert(entry.name.clone(), error.to_string());
                return;
            }
        } else {
            self.switch(entry, version);
        }
        changes.changed.push(entry.name.clone());
    }

    /// Requests that began are answered; its name is unknown to those that come.
    fn remove(&self, entry: &Entry) {
        // A folder that is renamed away and back within a moment is not worth forgetting it.
        if find(&entry.path).is_some_and(|found| found.name == entry.name) {
            return;
        }
        self.entries.write().remove(&entry.name);
        // Requests that have the entry and no lease yet must not meet a retired revision for ever.
        let (current, shadow) = entry.change(|versions| {
            let gone = Err("its folder was removed".to_owned());
            (std::mem::replace(&mut versions.current, gone).ok(), versions.shadow.take())
        });
        for version in shadow.iter().map(|shadow| &shadow.version).chain(&current) {
            self.retire(entry, version);
        }
        entry.metrics.removed();
        tracing::info!(model = entry.name, "removed");
    }
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn a_folder_is_read_when_it_rests() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let model = dir.path().join("m");
        std::fs::create_dir(&model).expect("creates");
        let write =
            |name: &str, text: &str| std::fs::write(model.join(name), text).expect("writes");
        write("config.json", "{}");
        let mut seen = Seen::of(dir.path());
        let mut look = || seen.look(super::stamps(dir.path()));
        assert!(!look(), "nothing has changed");
        write("model.safetensors", "half");
        assert!(!look(), "it is being written");
        write("model.safetensors", "half and half");
        assert!(!look(), "it is still being written");
        assert!(look(), "it rests");
    }
}

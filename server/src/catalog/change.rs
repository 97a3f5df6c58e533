//! Changing the revision that answers: load the new one beside the old, switch, drain the old.
//!
//! Invariant: a request is answered wholly by one revision. It takes the current one at its start;
//! if that is retired before the request has a lease on it, the request starts over.

use std::sync::Arc;

use postsort_cache::{EvictionReason, Spec};
use postsort_models::{ModelFolder, find, open_revision};

use super::entry::{Entry, Shadow};
use super::version::Version;
use super::{Catalog, told_of};
use crate::error::Error;

/// Which revision to change to, and how.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The name of the revision's folder; what the models folder says now if none is given.
    pub revision: Option<String>,
    /// Try it on this share of the mails first, beside the one that answers.
    pub shadow: Option<f64>,
}

// Why a change is refused.
const NO_PREVIOUS: &str = "there is no previous revision to go back to";
const NO_SHADOW: &str = "no revision is being tried";
const BUSY: &str = "its revision is being changed";
const CHANGED: &str = "the previous revision is not on disk any more";

impl Catalog {
    /// Reads the model's folder again and changes to what is chosen: loaded and warm before it
    /// answers, the old one dropped when its last request ends. Without a revision the entry
    /// follows its folder from then on, with one it stays there.
    ///
    /// # Errors
    /// Those of [`Self::acquire`]; the old one answers on. [`Error::UnknownRevision`];
    /// [`Error::Conflict`] while another change is going on.
    pub async fn reload(&self, entry: &Arc<Entry>, choice: Choice) -> Result<(), Error> {
        let _changing = self.begin_change(entry)?;
        let (label, folder, available) = read(entry, choice.revision.clone()).await?;
        entry.change(|versions| versions.available = available);
        let version = entry.version(label, folder);
        if !entry.current().is_ok_and(|current| current.key() == version.key()) {
            self.beside(entry, version, choice.shadow).await?;
        }
        entry.change(|versions| versions.following = choice.revision.is_none());
        Ok(())
    }

    /// The revision that is being tried answers from now on.
    ///
    /// # Errors
    /// [`Error::Conflict`] if none is, or while another change is going on.
    pub async fn promote(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        let _changing = self.begin_change(entry)?;
        let shadow = entry.shadow().ok_or_else(|| conflict(entry, NO_SHADOW))?;
        let loaded = self.acquire_anywhere(&shadow.version).await;
        let _lease = loaded.map_err(|error| told_of(entry, error))?;
        self.switch(entry, Arc::clone(&shadow.version));
        Ok(())
    }

    /// Gives up what is being tried; or, if nothing is, changes back to the previous revision and
    /// stays there.
    ///
    /// # Errors
    /// Those of [`Self::acquire`]; [`Error::Conflict`] if there is nothing to go back to.
    pub async fn rollback(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        let _changing = self.begin_change(entry)?;
        if let Some(shadow) = entry.change(|versions| versions.shadow.take()) {
            self.retire(entry, &shadow.version);
            entry.change(|versions| versions.following = false);
            return Ok(());
        }
        let previous = entry.versions().previous.ok_or_else(|| conflict(entry, NO_PREVIOUS))?;
        let version = Arc::clone(&previous);
        let is_there = move || version.folder.is_unchanged().unwrap_or(false);
        if !tokio::task::spawn_blocking(is_there).await.unwrap_or(false) {
            return Err(conflict(entry, CHANGED));
        }
        self.beside(entry, previous, None).await?;
        entry.change(|versions| versions.following = false);
        Ok(())
    }

    /// Loads `version` beside the one that answers; then it answers, or is tried.
    pub(super) async fn beside(
        &self,
        entry: &Arc<Entry>,
        version: Arc<Version>,
        shadow: Option<f64>,
    ) -> Result<(), Error> {
        self.revive(&version);
        // The lease keeps it from being evicted before anybody could use it.
        let loaded = self.acquire_anywhere(&version).await.map_err(|error| told_of(entry, error));
        entry.change(|versions| {
            versions.last_change_error = loaded.as_ref().err().map(Error::to_string);
        });
        if let Err(error) = loaded {
            tracing::error!(model = entry.name, %error, "the new revision is not taken");
            self.retire(entry, &version);
            return Err(error);
        }
        match shadow {
            Some(share) => {
                let tried = Arc::new(Shadow::new(version, share));
                let key = tried.version.key().to_owned();
                let before = entry.change(|versions| versions.shadow.replace(tried));
                if let Some(before) = before.filter(|before| before.version.key() != key) {
                    self.retire(entry, &before.version);
                }
            }
            None => self.switch(entry, version),
        }
        Ok(())
    }

    /// From here on `version` answers.
    pub(super) fn switch(&self, entry: &Arc<Entry>, version: Arc<Version>) {
        let key = version.key().to_owned();
        self.revive(&version);
        let pinned_by_manifest = version.folder.manifest().pinned;
        tracing::info!(model = entry.name, revision = version.folder.revision(), "switched");
        let (old, shadow) = entry.change(|versions| {
            let old = std::mem::replace(&mut versions.current, Ok(version)).ok();
            versions.previous.clone_from(&old);
            (old, versions.shadow.take())
        });
        let mut pinned = pinned_by_manifest;
        // What was tried and does not answer now is given up.
        for version in shadow.iter().map(|shadow| &shadow.version).chain(&old) {
            if version.key() != key {
                pinned |= self.retire(entry, version);
            }
        }
        self.residency.set_pinned(&key, pinned);
        entry.drift.clear();
        entry.metrics.switched();
    }

    /// Whether it was pinned.
    pub(super) fn retire(&self, entry: &Entry, version: &Arc<Version>) -> bool {
        let stats = self.retire_both(version);
        let mut past = entry.past.lock();
        past.loads += stats.loads;
        for reason in EvictionReason::ALL {
            past.evictions[reason as usize] += stats.evictions[reason as usize];
        }
        stats.pinned
    }

    /// The folder of `version`, which is not in memory, was replaced: what is there now answers.
    /// Whether that can be read, or another revision answers anyway.
    pub(super) async fn take_what_is_there(&self, entry: &Arc<Entry>, version: &Version) -> bool {
        // Whoever changes the revision now may be about to take it.
        let _changing = entry.changing.lock().await;
        let Ok(current) = entry.current() else { return false };
        if current.key() != version.key() {
            return true;
        }
        let (path, label) = (entry.path.clone(), current.label.clone());
        let folder_path = current.folder.path().to_owned();
        let open = move || match &label {
            Some(label) => open_revision(&path, label),
            None => ModelFolder::open(&folder_path),
        };
        let Ok(Ok(folder)) = tokio::task::spawn_blocking(open).await else { return false };
        let version = entry.version(current.label.clone(), folder);
        if version.key() == current.key() {
            return false;
        }
        self.switch(entry, version);
        true
    }

    pub(super) fn begin_change<'a>(
        &self,
        entry: &'a Entry,
    ) -> Result<tokio::sync::MutexGuard<'a, ()>, Error> {
        entry.changing.try_lock().map_err(|_| conflict(entry, BUSY))
    }
}

fn conflict(entry: &Entry, reason: &'static str) -> Error {
    Error::Conflict { model: entry.name.clone(), reason }
}

type Read = (Option<String>, ModelFolder, Vec<String>);

/// The chosen revision, or the one that the folder says; and which ones there are.
async fn read(entry: &Arc<Entry>, revision: Option<String>) -> Result<Read, Error> {
    let (path, name) = (entry.path.clone(), entry.name.clone());
    let read = move || {
        let failed = |reason: String| Error::LoadFailed {
            model: name.clone(),
            reason,
            retry_after: std::time::Duration::from_secs(1),
        };
        let found = find(&path).ok_or_else(|| failed("the folder is gone".to_owned()))?;
        let Some(label) = revision else {
            let folder = found.folder.map_err(|error| failed(error.to_string()))?;
            return Ok((found.label, folder, found.revisions));
        };
        match open_revision(&path, &label) {
            Ok(folder) => Ok((Some(label), folder, found.revisions)),
            Err(postsort_models::ModelError::NoRevision { label }) => {
                Err(Error::UnknownRevision { model: name, revision: label })
            }
            Err(error) => Err(failed(error.to_string())),
        }
    };
    tokio::task::spawn_blocking(read).await.map_err(|_| Error::Internal)?
}

//! The models folder: which models there are, and in which revisions.
//!
//! `models-dir/NAME/` is a model, or `models-dir/NAME/REVISION/` are its revisions. Of these the
//! one that `NAME/current` names (a text file or a symbolic link) is served, else the last one in
//! natural order (`v10` after `v9`) that can be read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::error::ModelError;
use crate::folder::{ModelFolder, folder_name};
use crate::manifest::Manifest;

/// A model in the models folder.
#[derive(Debug)]
pub struct Found {
    /// The manifest's name, or the folder's.
    pub name: String,
    /// Its folder: that of the model itself, or of its revisions.
    pub path: PathBuf,
    /// Names of the revisions' folders in natural order; none if the folder is the model.
    pub revisions: Vec<String>,
    /// The revision's folder that `folder` was read from.
    pub label: Option<String>,
    /// The model to serve, or what is wrong with it.
    pub folder: Result<ModelFolder, ModelError>,
    /// Later revisions that cannot be read, with the reason.
    pub unreadable: Vec<(String, ModelError)>,
}

/// A cheap sign that files under a model's folder may have changed: names, sizes, times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

/// All models in `models_dir`, by name; or `models_dir` itself if it is one. A broken one hides no
/// other.
///
/// # Errors
/// `models_dir` cannot be read, or two models have one name.
pub fn discover(models_dir: &Path) -> Result<Vec<Found>, ModelError> {
    let mut found: Vec<Found> =
        model_paths(models_dir)?.iter().filter_map(|path| find(path)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let reason = format!("two models are called `{}`", pair[0].name);
        return Err(ModelError::bad_file(models_dir, reason));
    }
    Ok(found)
}

/// Folders in `models_dir` that may hold a model.
///
/// # Errors
/// `models_dir` cannot be read.
pub fn model_paths(models_dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if is_model(models_dir) {
        return Ok(vec![models_dir.to_owned()]);
    }
    let io = |error| ModelError::io(models_dir, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(models_dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !is_hidden(&entry) && entry.path().is_dir() {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// The model in a folder; `None` if there is none.
#[must_use]
pub fn find(path: &Path) -> Option<Found> {
    if is_model(path) {
        let folder = ModelFolder::open(path);
        let name = folder.as_ref().map_or_else(|_| folder_name(path), |f| f.name().to_owned());
        let (path, revisions, unreadable) = (path.to_owned(), Vec::new(), Vec::new());
        return Some(Found { name, path, revisions, label: None, folder, unreadable });
    }
    let revisions = revisions(path);
    if revisions.is_empty() {
        return not_fetched(path);
    }
    let candidates = match current(path) {
        Some(label) => vec![label],
        None => revisions.iter().rev().cloned().collect(),
    };
    let (mut unreadable, mut chosen) = (Vec::new(), None);
    for label in candidates {
        match open_revision(path, &label) {
            Ok(folder) => {
                chosen = Some((label, Ok(folder)));
                break;
            }
            Err(error) => unreadable.push((label, error)),
        }
    }
    // None can be read: the first one that was tried says why.
    let (label, folder) = chosen.unwrap_or_else(|| {
        let (label, error) = unreadable.remove(0);
        (label, Err(error))
    });
    let name = folder.as_ref().map_or_else(|_| folder_name(path), |f| f.name().to_owned());
    Some(Found { name, path: path.to_owned(), revisions, label: Some(label), folder, unreadable })
}

/// A manifest that names a hub's repository, without the model.
fn not_fetched(path: &Path) -> Option<Found> {
    let manifest = Manifest::read(path).ok()?;
    let id = manifest.hub?.id;
    Some(Found {
        name: manifest.name.unwrap_or_else(|| folder_name(path)),
        path: path.to_owned(),
        revisions: Vec::new(),
        label: None,
        folder: Err(ModelError::NotFetched { id }),
        unreadable: Vec::new(),
    })
}

/// The revision of this name below a model's folder.
///
/// # Errors
/// There is none of this name, or it cannot be read.
pub fn open_revision(path: &Path, label: &str) -> Result<ModelFolder, ModelError> {
    // A name from outside must not lead out of the folder.
    if !revisions(path).iter().any(|known| known == label) {
        return Err(ModelError::NoRevision { label: label.chars().take(100).collect() });
    }
    Ok(ModelFolder::open(&path.join(label))?.named(folder_name(path)))
}

/// Names, sizes and times of the files in a model's folder and its revisions.
#[must_use]
pub fn stamp(path: &Path) -> Stamp {
    let mut lines = Vec::new();
    let mut folders = vec![path.to_owned()];
    folders.extend(revisions(path).into_iter().map(|label| path.join(label)));
    for folder in folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // Links count as what they lead to: `current` may be one, hub caches are full of them.
            if let Ok(metadata) = std::fs::metadata(entry.path()) {
                lines.push((entry.path(), metadata.len(), metadata.modified().ok()));
            }
        }
    }
    lines.sort();
    let mut hasher = DefaultHasher::new();
    (lines, current(path)).hash(&mut hasher);
    Stamp(hasher.finish())
}

/// Where copies in the making and caches lie.
fn is_hidden(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn is_model(path: &Path) -> bool {
    path.join("config.json").is_file()
}

fn revisions(path: &Path) -> Vec<String> {
    let mut labels: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name() != "current" && !is_hidden(entry))
        .filter(|entry| is_model(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    labels.sort_by_cached_key(|label| natural(label));
    labels
}

fn current(path: &Path) -> Option<String> {
    let path = path.join("current");
    if let Ok(target) = std::fs::read_link(&path) {
        return Some(target.file_name()?.to_str()?.to_owned());
    }
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|label| !label.is_empty())
}

/// Runs of digits count as numbers.
fn natural(label: &str) -> Vec<(String, u128)> {
    let mut parts = Vec::new();
    let mut rest = label;
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(word);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        parts.push((text.to_owned(), number.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut labels = ["v10", "v9", "2024-11-02", "v9b", "2024-2-1", "v"];
        labels.sort_by_cached_key(|label| natural(label));
        assert_eq!(labels, ["2024-2-1", "2024-11-02", "v", "v9", "v9b", "v10"]);
    }
}

//! What keeps a run from starting or from ending.

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that do not go together, or a value that means nothing.
    #[error("{0}")]
    Usage(String),
    /// A file or folder that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A server that gave no good answer while its saturation was looked for.
    #[error("{target} gave no good answer: {reasons}")]
    NoAnswers {
        /// Its name.
        target: String,
        /// What it gave instead.
        reasons: String,
    },
}

impl Error {
    /// Of a file: for `map_err`.
    pub fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { path, source }
    }
}

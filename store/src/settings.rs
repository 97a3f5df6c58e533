//! Where the store is, and its bounds.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::StoreError;

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// A file of this machine.
    Sqlite(PathBuf),
    /// A server that several replicas share; the URL may hold a password.
    Postgres(String),
    /// None: nothing outlives the process.
    None,
}

/// A URL's password is nobody's business.
impl std::fmt::Debug for StoreKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(_) => f.write_str("postgres"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for StoreKind {
    type Err = StoreError;

    fn from_str(given: &str) -> Result<Self, StoreError> {
        if given == "none" {
            return Ok(Self::None);
        }
        match given.split_once(':') {
            Some(("sqlite", path)) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.is_empty() {
                    return Ok(Self::Sqlite(path.into()));
                }
            }
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                return Ok(Self::Postgres(given.to_owned()));
            }
            _ => {}
        }
        let given = given.split(':').next().unwrap_or_default().chars().take(32).collect();
        Err(StoreError::UnknownKind { given })
    }
}

/// The store's bounds.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Where it is.
    pub kind: StoreKind,
    /// Most connections.
    pub connections_max: u32,
    /// How long a query waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// Rows that may wait to be written; more are lost, and counted.
    pub queue_rows_max: usize,
    /// How long verdicts are kept.
    pub verdicts_age_max: Duration,
    /// How many verdicts are kept.
    pub verdicts_max: u64,
    /// How long sums, feedback and the objectives' figures are kept.
    pub sums_age_max: Duration,
    /// What answers depend on beside what their digest is of: others' are neither read nor mixed.
    pub answers_space: String,
    /// Bytes of memoized answers that are kept.
    pub answers_bytes_max: u64,
    /// How often what is too old is dropped.
    pub upkeep_period: Duration,
}

impl StoreSettings {
    /// The defaults, for a store at this place.
    #[must_use]
    pub const fn new(kind: StoreKind) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            kind,
            connections_max: 4,
            acquire_timeout: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(5),
            queue_rows_max: 1 << 16,
            verdicts_age_max: Duration::from_secs(30 * DAY),
            verdicts_max: 10_000_000,
            sums_age_max: Duration::from_secs(400 * DAY),
            answers_space: String::new(),
            answers_bytes_max: 64 << 20,
            upkeep_period: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StoreKind;

    #[test]
    fn kinds() {
        let sqlite = |path: &str| Some(StoreKind::Sqlite(path.into()));
        let postgres = "postgres://u:secret@host/mail";
        for (given, expected) in [
            ("none", Some(StoreKind::None)),
            ("sqlite:/var/lib/a.db", sqlite("/var/lib/a.db")),
            ("sqlite:///var/lib/a.db", sqlite("/var/lib/a.db")),
            ("sqlite:a.db", sqlite("a.db")),
            (postgres, Some(StoreKind::Postgres(postgres.into()))),
            ("sqlite:", None),
            ("mysql://u:secret@host", None),
            ("", None),
            ("postgres:secret", None),
        ] {
            let found = given.parse::<StoreKind>();
            if let Err(error) = &found {
                assert!(!error.to_string().contains("secret"), "{error}");
            }
            assert_eq!(found.ok(), expected, "{given}");
        }
        assert!(!format!("{:?}", StoreKind::Postgres(postgres.into())).contains("secret"));
    }
}

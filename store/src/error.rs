//! What can go wrong with the store. None of it is an answer's business.

use std::time::Duration;

/// Why a query could not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such kind of store.
    #[error("`{given}` is no store: sqlite:PATH, postgres://…, or none")]
    UnknownKind {
        /// What was asked for, without what follows its scheme: that may be a password.
        given: String,
    },
    /// It is not open: not yet, or not any more.
    #[error("the store is not open: {reason}")]
    Away {
        /// Why.
        reason: String,
    },
    /// No connection was free in time.
    #[error("no connection to the store was free in {timeout:?}")]
    Busy {
        /// The time limit.
        timeout: Duration,
    },
    /// A statement took too long.
    #[error("the store took longer than {timeout:?} for `{query}`")]
    Slow {
        /// The query's name.
        query: &'static str,
        /// The time limit.
        timeout: Duration,
    },
    /// The database refused.
    #[error("the store failed on `{query}`: {reason}")]
    Query {
        /// The query's name.
        query: &'static str,
        /// What the database said.
        reason: String,
        /// Whether asking again may help.
        transient: bool,
    },
    /// Feedback to a mail of which there is no verdict.
    #[error("no verdict of that model for that mail is in the store")]
    UnknownVerdict,
}

impl StoreError {
    pub(crate) fn query(query: &'static str, error: &sqlx::Error) -> Self {
        Self::Query { query, reason: error.to_string(), transient: transient(error) }
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Busy { .. } | Self::Slow { .. } => true,
            Self::Query { transient, .. } => *transient,
            Self::UnknownKind { .. } | Self::UnknownVerdict => false,
        }
    }
}

/// What the database itself refused for good is a fault of ours; all else passes: a connection that
/// was cut, a lock, a full disk, a server that starts or stops.
fn transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(refused) => {
            let code = refused.code().unwrap_or_default();
            // SQLite: primary result codes BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN.
            let sqlite = code.parse::<u32>().is_ok_and(|code| {
                code < 10_000 && matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14)
            });
            // PostgreSQL: classes connection, rollback, resources, operator, system.
            let postgres = code.len() == 5
                && ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class));
            sqlite || postgres
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_)
        | sqlx::Error::ColumnNotFound(_) => false,
        _ => true,
    }
}

//! The connections, and how long every query takes.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::{
    Any, AnyConnection, AnyPool, ConnectOptions, Connection, Executor, SqlSafeStr, Transaction,
};

use crate::{Observe, StoreError, StoreKind, StoreSettings};

/// A query that took longer is logged: by name, never with what it was asked.
const SLOW: Duration = Duration::from_millis(100);

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// An open database with our tables in it.
pub(crate) struct Database {
    pub(crate) dialect: Dialect,
    pool: AnyPool,
    acquire_timeout: Duration,
    statement_timeout: Duration,
    observer: Arc<dyn Observe>,
}

impl Database {
    /// Connects, and brings the tables to the version of this program.
    ///
    /// # Errors
    /// It cannot be reached, or its tables are those of a newer version.
    pub(crate) async fn open(
        settings: &StoreSettings,
        observer: Arc<dyn Observe>,
    ) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let (dialect, url) = match &settings.kind {
            StoreKind::Sqlite(path) => (Dialect::Sqlite, sqlite_url(path)?),
            StoreKind::Postgres(url) => (Dialect::Postgres, url.clone()),
            StoreKind::None => return Err(StoreError::Away { reason: "there is none".into() }),
        };
        let failed = |error: sqlx::Error| StoreError::query("connect", &error);
        let options = url.parse::<AnyConnectOptions>().map_err(|_| StoreError::Away {
            // What is wrong with it may hold its password.
            reason: "its URL is malformed".into(),
        })?;
        let options = options.disable_statement_logging();
        // A pool tries until it is tired, and does not say why.
        let alone = tokio::time::timeout(settings.acquire_timeout, options.connect()).await;
        let timeout = settings.acquire_timeout;
        let connection = alone.map_err(|_| StoreError::Busy { timeout })?.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        let statement_ms = settings.statement_timeout.as_millis();
        let pool = AnyPoolOptions::new()
            .max_connections(settings.connections_max)
            .acquire_timeout(settings.acquire_timeout)
            // A connection that was cut shows at its first statement; asking each time costs a turn.
            .test_before_acquire(dialect == Dialect::Postgres)
            .after_connect(move |connection, _| Box::pin(prepare(connection, statement_ms)))
            .connect_with(options)
            .await
            .map_err(failed)?;
        let migrator = Migrator::with_migrations(migrations(dialect));
        migrator
            .run(&pool)
            .await
            .map_err(|error| StoreError::Away { reason: error.to_string() })?;
        let StoreSettings { acquire_timeout, statement_timeout, .. } = *settings;
        Ok(Self { dialect, pool, acquire_timeout, statement_timeout, observer })
    }

    /// A connection, when one is free.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Any>, StoreError> {
        self.timed("acquire", self.acquire_timeout, self.pool.acquire()).await
    }

    /// A transaction that will write.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        // SQLite's own transactions begin by reading: two that then want to write wait for each other.
        let begin = match self.dialect {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        self.timed("begin", self.acquire_timeout, self.pool.begin_with(begin)).await
    }

    /// Ends a transaction.
    pub(crate) async fn commit(&self, open: Transaction<'static, Any>) -> Result<(), StoreError> {
        self.run("commit", open.commit()).await
    }

    /// Runs a statement: in time, and measured.
    pub(crate) async fn run<T>(
        &self,
        query: &'static str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        self.timed(query, self.statement_timeout, statement).await
    }

    async fn timed<T>(
        &self,
        query: &'static str,
        timeout: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let clock = Instant::now();
        let result = match tokio::time::timeout(timeout, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(sqlx::Error::PoolTimedOut)) => Err(StoreError::Busy { timeout }),
            Ok(Err(error)) => Err(StoreError::query(query, &error)),
            Err(_) => Err(StoreError::Slow { query, timeout }),
        };
        let took = clock.elapsed();
        self.observer.query(query, took, result.is_err());
        if took > SLOW {
            tracing::warn!(query, duration_ms = took.as_secs_f64() * 1e3, "slow query");
        }
        result
    }

    /// Connections that are open, and of these the idle ones.
    pub(crate) fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A file that is made if it is not there. The path may have any character but the end of a string.
fn sqlite_url(path: &Path) -> Result<String, StoreError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Away {
            reason: format!("folder {}: {error}", folder.display()),
        })?;
    }
    let encoded: String = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|&byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    Ok(format!("sqlite://{encoded}?mode=rwc"))
}

async fn prepare(connection: &mut AnyConnection, statement_ms: u128) -> Result<(), sqlx::Error> {
    let settings = if connection.backend_name() == "SQLite" {
        // Freed pages can be given back; readers and the writer do not wait for each other; a crash of
        // the machine may lose the last batch but harms nothing.
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
         PRAGMA busy_timeout = 4000; PRAGMA cache_size = -8192; PRAGMA mmap_size = 268435456; \
         PRAGMA journal_size_limit = 67108864"
            .into_sql_str()
    } else {
        sqlx::AssertSqlSafe(format!("SET statement_timeout = {statement_ms}")).into_sql_str()
    };
    connection.execute(sqlx::raw_sql(settings)).await?;
    give_way();
    Ok(())
}

/// SQLite computes in threads of this process, sqlx's own, one a connection: they give way to those
/// that answer requests. A kernel without a list of threads leaves them as they are.
fn give_way() {
    /// As the kernel cuts `sqlx-sqlite-worker-0`.
    const NAME: &str = "sqlx-sqlite-wor";
    const NICENESS: i32 = 10;
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return };
    for thread in threads.flatten() {
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
        if name.trim_end() == NAME
            && let Some(id) = id.and_then(rustix::process::Pid::from_raw)
        {
            // Without the right to, it stays as it is.
            let _ = rustix::process::setpriority_process(Some(id), NICENESS);
        }
    }
}

fn migrations(dialect: Dialect) -> Vec<Migration> {
    let start = match dialect {
        Dialect::Sqlite => include_str!("../migrations/sqlite/0001_start.sql"),
        Dialect::Postgres => include_str!("../migrations/postgres/0001_start.sql"),
    };
    let simple = MigrationType::Simple;
    vec![Migration::new(1, "start".into(), simple, start.into_sql_str(), false)]
}

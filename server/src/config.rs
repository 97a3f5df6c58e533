//! Settings: flags, `POSTSORT_…` variables and `postsort.toml`, validated once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postsort_cache::SharedSettings;
use postsort_email::Cuts;
use postsort_models::{ComputePool, LoadOptions, Precision, kernels};
use postsort_store::{StoreKind, StoreSettings};
use serde::Deserialize;

use crate::devices::Devices;
use crate::error::Error;
use crate::memory::MemoryLimit;
use crate::scheduler::plan::BatchLimits;
use crate::scheduler::{AdmissionLimits, SchedulerLimits};
use crate::telemetry::{Objectives, SloOptions, TraceOptions, TraceSettings};

/// What can be set. Each is a flag, an environment variable, or a key of `postsort.toml` (with
/// underscores), the first that is given winning in this order.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Folder whose sub-folders are Hugging Face model folders, or one of these, which then goes by
    /// the default model's name [default: the bundled models]
    #[arg(long, env = "POSTSORT_MODELS_DIR", value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Address to serve on; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "POSTSORT_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Socket in the file system to serve on as well
    #[arg(long, env = "POSTSORT_LISTEN_UNIX", value_name = "PATH")]
    pub listen_unix: Option<PathBuf>,
    /// Memory for models: bytes (512MiB) or a share (80%) of what the process may use [default: 80%]
    #[arg(long, env = "POSTSORT_MEMORY_BYTES_MAX", value_name = "N|%")]
    pub memory_bytes_max: Option<String>,
    /// Memory for memoized results; 0 turns them off [default: 64MiB]
    #[arg(long, env = "POSTSORT_RESULT_CACHE_BYTES_MAX", value_name = "N|%")]
    pub result_cache_bytes_max: Option<String>,
    /// Memory for what encoders that several models share made of texts; 0: none [default: 32MiB]
    #[arg(long, env = "POSTSORT_STATE_CACHE_BYTES_MAX", value_name = "N|%")]
    pub state_cache_bytes_max: Option<String>,
    /// Drop a model from memory that nobody asked for in this many seconds; 0: never [default: 0]
    #[arg(long, env = "POSTSORT_IDLE_UNLOAD_SECONDS", value_name = "S")]
    pub idle_unload_seconds: Option<u64>,
    /// Look at the models folder every so many seconds; 0: only when asked to [default: 5]
    #[arg(long, env = "POSTSORT_WATCH_SECONDS", value_name = "S")]
    pub watch_seconds: Option<u64>,
    /// Models to load before the server says that it is ready, comma-separated
    #[arg(long, env = "POSTSORT_PRELOAD", value_name = "A,B", value_delimiter = ',')]
    pub preload: Option<Vec<String>>,
    /// Precision of the computation: auto, f32, bf16, int8 [default: auto]
    #[arg(long, env = "POSTSORT_PRECISION")]
    pub precision: Option<String>,
    /// Where models go: auto (a GPU where there is one), cpu, cuda:N [default: auto]
    #[arg(long, env = "POSTSORT_DEVICE")]
    pub device: Option<String>,
    /// Memory for models on a GPU: bytes (20GiB) or a share (80%) of what it has [default: 80%]
    #[arg(long, env = "POSTSORT_DEVICE_MEMORY_BYTES_MAX", value_name = "N|%")]
    pub device_memory_bytes_max: Option<String>,
    /// Compute threads [default: the CPUs that the control group and the affinity mask give]
    #[arg(long, env = "POSTSORT_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Folder for what is measured of models once, or `none` [default: the user's cache folder]
    #[arg(long, env = "POSTSORT_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Model that answers where a request names none [default: the only model, or `spam`]
    #[arg(long, env = "POSTSORT_DEFAULT_MODEL", value_name = "MODEL")]
    pub default_model: Option<String>,
    /// Largest request body [default: 8MiB]
    #[arg(long, env = "POSTSORT_BODY_BYTES_MAX", value_name = "N")]
    pub body_bytes_max: Option<String>,
    /// Longest text of one mail after decoding [default: 1MiB]
    #[arg(long, env = "POSTSORT_TEXT_BYTES_MAX", value_name = "N")]
    pub text_bytes_max: Option<String>,
    /// What is cut from mail: signature, footer, disclaimer, quotes, or none
    /// [default: signature,footer,disclaimer]
    #[arg(long, env = "POSTSORT_MAIL_CUT", value_name = "A,B")]
    pub mail_cut: Option<String>,
    /// Most mails in one request [default: 256]
    #[arg(long, env = "POSTSORT_ITEMS_MAX", value_name = "N")]
    pub items_max: Option<usize>,
    /// Most mails that wait or run at once; more are refused with 429 [default: 1024]
    #[arg(long, env = "POSTSORT_QUEUED_JOBS_MAX", value_name = "N")]
    pub queued_jobs_max: Option<usize>,
    /// Most tokens that wait or run at once; more are refused with 429 [default: 512 a queued mail]
    #[arg(long, env = "POSTSORT_QUEUED_TOKENS_MAX", value_name = "N")]
    pub queued_tokens_max: Option<usize>,
    /// Most tokens in one forward pass [default: 2048]
    #[arg(long, env = "POSTSORT_BATCH_TOKENS_MAX", value_name = "N")]
    pub batch_tokens_max: Option<usize>,
    /// Time limit of a request that sets none, in milliseconds [default: 30000]
    #[arg(long, env = "POSTSORT_REQUEST_TIMEOUT_MS", value_name = "MS")]
    pub request_timeout_ms: Option<u64>,
    /// How long a body may take to arrive, in milliseconds [default: 10000]
    #[arg(long, env = "POSTSORT_BODY_TIMEOUT_MS", value_name = "MS")]
    pub body_timeout_ms: Option<u64>,
    /// How long requests may finish after SIGTERM, in milliseconds [default: 30000]
    #[arg(long, env = "POSTSORT_DRAIN_TIMEOUT_MS", value_name = "MS")]
    pub drain_timeout_ms: Option<u64>,
    /// Where verdicts, feedback and answers are kept: sqlite:PATH, postgres://…, or none
    /// [default: a file in the user's state folder]
    #[arg(long, env = "POSTSORT_STORE", value_name = "STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// How many days verdicts are kept [default: 30]
    #[arg(long, env = "POSTSORT_STORE_DAYS_MAX", value_name = "N")]
    pub store_days_max: Option<u64>,
    /// How many verdicts are kept [default: 10000000]
    #[arg(long, env = "POSTSORT_STORE_VERDICTS_MAX", value_name = "N")]
    pub store_verdicts_max: Option<u64>,
    /// Redis or Valkey server where replicas share their answers: redis://HOST:PORT, rediss://…
    #[arg(long, env = "POSTSORT_SHARED_CACHE", value_name = "URL", hide_env_values = true)]
    pub shared_cache: Option<String>,
    /// How long an answer of the shared cache is waited for, in milliseconds [default: 3]
    #[arg(long, env = "POSTSORT_SHARED_CACHE_TIMEOUT_MS", value_name = "MS")]
    pub shared_cache_timeout_ms: Option<u64>,
    /// How many hours an answer stays in the shared cache [default: 168]
    #[arg(long, env = "POSTSORT_SHARED_CACHE_HOURS_MAX", value_name = "N")]
    pub shared_cache_hours_max: Option<u64>,
    /// Service level objectives; `[slo]` in the file.
    #[command(flatten)]
    pub slo: SloOptions,
    /// Traces and request logs; `[traces]` in the file.
    #[command(flatten)]
    pub traces: TraceOptions,
}

/// Validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder whose sub-folders are models.
    pub models_dir: PathBuf,
    /// Address to serve on.
    pub listen: SocketAddr,
    /// Socket in the file system to serve on as well.
    pub listen_unix: Option<PathBuf>,
    /// Where models may be, and how many bytes of them.
    pub devices: Devices,
    /// Budget of memoized results.
    pub result_cache_bytes_max: u64,
    /// Budget of memoized states.
    pub state_cache_bytes_max: u64,
    /// Models that nobody asked for in this time are dropped.
    pub idle_unload: Option<Duration>,
    /// How often to look at the models folder.
    pub watch: Option<Duration>,
    /// Models to load before the server is ready.
    pub preload: Vec<String>,
    /// Precision of the computation.
    pub precision: Precision,
    /// Compute threads.
    pub threads: usize,
    /// Where calibrations are kept.
    pub cache_dir: Option<PathBuf>,
    /// Answers where a request names none.
    pub default_model: Option<String>,
    /// Limits of one request.
    pub limits: RequestLimits,
    /// Bounds of the queue and of a forward pass.
    pub scheduler: SchedulerLimits,
    /// How long requests may finish after SIGTERM.
    pub drain_timeout: Duration,
    /// What the service is judged by.
    pub objectives: Objectives,
    /// What is told of requests, and where.
    pub traces: TraceSettings,
    /// What outlives the process, and where.
    pub store: StoreSettings,
    /// What several processes share.
    pub shared_cache: Option<SharedSettings>,
}

/// Limits of one request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Largest body.
    pub body_bytes_max: usize,
    /// Longest text of one mail.
    pub text_bytes_max: usize,
    /// What is cut from mail.
    pub cuts: Cuts,
    /// Most mails.
    pub items_max: usize,
    /// Time limit of a request that sets none.
    pub timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
}

impl Options {
    /// Fills what flags and environment left open from a `postsort.toml`: the one named, or the
    /// one in the working folder if there is one.
    ///
    /// # Errors
    /// The named file cannot be read, or a key is unknown or of the wrong type.
    pub fn with_file(self, named: Option<&Path>) -> Result<Self, Error> {
        let default = Path::new("postsort.toml");
        let path = match named {
            Some(path) => path,
            None if default.is_file() => default,
            None => return Ok(self),
        };
        let describe = || format!("settings file {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| Error::setup(describe(), e))?;
        let file: Self =
            toml::from_str(&text).map_err(|e| Error::setup(describe(), e.message()))?;
        Ok(self.or(file))
    }

    fn or(self, other: Self) -> Self {
        Self {
            models_dir: self.models_dir.or(other.models_dir),
            listen: self.listen.or(other.listen),
            listen_unix: self.listen_unix.or(other.listen_unix),
            memory_bytes_max: self.memory_bytes_max.or(other.memory_bytes_max),
            result_cache_bytes_max: self.result_cache_bytes_max.or(other.result_cache_bytes_max),
            state_cache_bytes_max: self.state_cache_bytes_max.or(other.state_cache_bytes_max),
            idle_unload_seconds: self.idle_unload_seconds.or(other.idle_unload_seconds),
            watch_seconds: self.watch_seconds.or(other.watch_seconds),
            preload: self.preload.or(other.preload),
            precision: self.precision.or(other.precision),
            device: self.device.or(other.device),
            device_memory_bytes_max: self.device_memory_bytes_max.or(other.device_memory_bytes_max),
            threads: self.threads.or(other.threads),
            cache_dir: self.cache_dir.or(other.cache_dir),
            default_model: self.default_model.or(other.default_model),
            body_bytes_max: self.body_bytes_max.or(other.body_bytes_max),
            text_bytes_max: self.text_bytes_max.or(other.text_bytes_max),
            mail_cut: self.mail_cut.or(other.mail_cut),
            items_max: self.items_max.or(other.items_max),
            queued_jobs_max: self.queued_jobs_max.or(other.queued_jobs_max),
            queued_tokens_max: self.queued_tokens_max.or(other.queued_tokens_max),
            batch_tokens_max: self.batch_tokens_max.or(other.batch_tokens_max),
            request_timeout_ms: self.request_timeout_ms.or(other.request_timeout_ms),
            body_timeout_ms: self.body_timeout_ms.or(other.body_timeout_ms),
            drain_timeout_ms: self.drain_timeout_ms.or(other.drain_timeout_ms),
            store: self.store.or(other.store),
            store_days_max: self.store_days_max.or(other.store_days_max),
            store_verdicts_max: self.store_verdicts_max.or(other.store_verdicts_max),
            shared_cache: self.shared_cache.or(other.shared_cache),
            shared_cache_timeout_ms: self.shared_cache_timeout_ms.or(other.shared_cache_timeout_ms),
            shared_cache_hours_max: self.shared_cache_hours_max.or(other.shared_cache_hours_max),
            slo: self.slo.or(other.slo),
            traces: self.traces.or(other.traces),
        }
    }

    /// Validates everything and fills in the defaults.
    ///
    /// # Errors
    /// Names the setting and what is wrong with it.
    pub fn resolve(self) -> Result<Config, Error> {
        let limits = RequestLimits {
            body_bytes_max: bytes("body_bytes_max", self.body_bytes_max.as_deref(), "8MiB")?,
            text_bytes_max: bytes("text_bytes_max", self.text_bytes_max.as_deref(), "1MiB")?,
            cuts: parse("mail_cut", self.mail_cut.as_deref(), &Cuts::default().to_string())?,
            items_max: at_least_one("items_max", self.items_max, 256)?,
            timeout: Duration::from_millis(self.request_timeout_ms.unwrap_or(30_000)),
            body_timeout: Duration::from_millis(self.body_timeout_ms.unwrap_or(10_000)),
        };
        let models_dir = self.models_dir.unwrap_or_else(bundled_dir);
        if !models_dir.is_dir() {
            return Err(Error::setup(
                format!("models_dir {}", models_dir.display()),
                "not a folder",
            ));
        }
        let jobs_max = at_least_one("queued_jobs_max", self.queued_jobs_max, 1024)?;
        let tokens_max = jobs_max.saturating_mul(512);
        let tokens_max = at_least_one("queued_tokens_max", self.queued_tokens_max, tokens_max)?;
        let admission = AdmissionLimits { jobs_max, tokens_max };
        let tokens_max = at_least_one("batch_tokens_max", self.batch_tokens_max, 2048)?;
        let batch = BatchLimits { tokens_max, jobs_max: tokens_max.div_ceil(8) };
        let precision = parse("precision", self.precision.as_deref(), "auto")?;
        let devices = Devices::open(
            parse("device", self.device.as_deref(), "auto")?,
            memory("memory_bytes_max", self.memory_bytes_max.as_deref(), "80%")?,
            parse("device_memory_bytes_max", self.device_memory_bytes_max.as_deref(), "80%")?,
        )?;
        let result_cache_bytes_max =
            memory("result_cache_bytes_max", self.result_cache_bytes_max.as_deref(), "64MiB")?;
        let store = match self.store.as_deref() {
            Some(given) => given.parse().map_err(|e| Error::setup("setting store", e))?,
            None => user_state_dir()
                .map_or(StoreKind::None, |dir| StoreKind::Sqlite(dir.join("store.db"))),
        };
        let answers_space = answers_space(precision, &devices);
        let timeout = at_least_one("shared_cache_timeout_ms", self.shared_cache_timeout_ms, 3)?;
        let hours = at_least_one("shared_cache_hours_max", self.shared_cache_hours_max, 168)?;
        let shared_cache = self
            .shared_cache
            .map(|address| {
                let age_max = Duration::from_secs(hours.saturating_mul(3600));
                let timeout = Duration::from_millis(timeout);
                SharedSettings::new(&address, timeout, age_max, answers_space.clone())
            })
            .transpose()
            .map_err(|e| Error::setup("setting shared_cache", e))?;
        let defaults = StoreSettings::new(store);
        let days = |days: u64| Duration::from_secs(days.saturating_mul(86_400));
        let store = StoreSettings {
            verdicts_age_max: self.store_days_max.map_or(defaults.verdicts_age_max, days),
            verdicts_max: self.store_verdicts_max.unwrap_or(defaults.verdicts_max),
            answers_space,
            // An answer in memory takes eight times its bytes in the store: what memory has no room for
            // is not kept either.
            answers_bytes_max: result_cache_bytes_max / 8,
            ..defaults
        };
        let threads = at_least_one("threads", self.threads, cpus())?;
        Ok(Config {
            models_dir,
            listen: self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            listen_unix: self.listen_unix,
            devices,
            result_cache_bytes_max,
            state_cache_bytes_max: memory(
                "state_cache_bytes_max",
                self.state_cache_bytes_max.as_deref(),
                "32MiB",
            )?,
            idle_unload: seconds(self.idle_unload_seconds.unwrap_or(0)),
            watch: seconds(self.watch_seconds.unwrap_or(5)),
            preload: self.preload.unwrap_or_default(),
            precision,
            store,
            shared_cache,
            threads,
            cache_dir: self
                .cache_dir
                .or_else(user_cache_dir)
                .filter(|dir| dir != Path::new("none")),
            default_model: self.default_model,
            scheduler: SchedulerLimits { admission, batch },
            drain_timeout: Duration::from_millis(self.drain_timeout_ms.unwrap_or(30_000)),
            objectives: self.slo.resolve()?,
            traces: self.traces.resolve()?,
            limits,
        })
    }
}

impl Config {
    /// How models are loaded where they go unless told otherwise: with one pool of compute threads
    /// for all of them.
    ///
    /// # Errors
    /// The system has no threads to give.
    pub fn load_options(&self) -> Result<LoadOptions, Error> {
        let pool =
            ComputePool::new(self.threads).map_err(|e| Error::setup("compute threads", e))?;
        Ok(LoadOptions {
            precision: self.precision,
            device: Arc::clone(&self.devices.preferred_device().device),
            pool: Some(pool),
            calibration_dir: self.cache_dir.clone(),
            ..LoadOptions::default()
        })
    }
}

fn user_cache_dir() -> Option<PathBuf> {
    user_dir("XDG_CACHE_HOME", ".cache")
}

fn user_state_dir() -> Option<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
}

/// By the XDG base directory specification.
fn user_dir(variable: &str, in_home: &str) -> Option<PathBuf> {
    let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = path(variable).or_else(|| path("HOME").map(|home| home.join(in_home)))?;
    Some(base.join("postsort"))
}

/// CPUs that the control group's quota and the affinity mask really give.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The default models: beside the binary when installed so, else in the source tree it was built from.
fn bundled_dir() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("bundled")))
        .filter(|dir| dir.is_dir());
    let working = || Some(PathBuf::from("bundled")).filter(|dir| dir.is_dir());
    beside
        .or_else(working)
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundled")))
}

fn parse<T>(name: &str, given: Option<&str>, default: &str) -> Result<T, Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    given.unwrap_or(default).parse().map_err(|e| Error::setup(format!("setting {name}"), e))
}

fn memory(name: &str, given: Option<&str>, default: &str) -> Result<u64, Error> {
    Ok(parse::<MemoryLimit>(name, given, default)?.bytes())
}

fn bytes(name: &str, given: Option<&str>, default: &str) -> Result<usize, Error> {
    let bytes = memory(name, given, default)?;
    at_least_one(name, Some(usize::try_from(bytes).unwrap_or(usize::MAX)), 1)
}

/// Another version or precision may say something else of the same text; which precision `auto` picks
/// depends on the CPU's kernels.
fn answers_space(precision: Precision, devices: &Devices) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let device = devices.preferred_device().device.name();
    match precision {
        Precision::Auto => format!("{version}/auto/{}/{device}", kernels().level),
        given => format!("{version}/{given:?}/{device}"),
    }
}

/// Zero turns it off.
fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds)).filter(|duration| !duration.is_zero())
}

fn at_least_one<T: Default + PartialEq>(
    name: &str,
    given: Option<T>,
    default: T,
) -> Result<T, Error> {
    match given.unwrap_or(default) {
        none if none == T::default() => {
            Err(Error::setup(format!("setting {name}"), "must be at least 1"))
        }
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::Options;
    use crate::devices::CPU;

    #[test]
    fn the_file_fills_only_what_is_open() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("settings.toml");
        std::fs::write(
            &path,
            "items_max = 3\nthreads = 7\nmemory_bytes_max = \"1GiB\"\n[slo]\np95_ms = 50.0\n",
        )
        .expect("write");
        let options = Options { threads: Some(2), ..Options::default() };
        let config = options.with_file(Some(&path)).expect("reads").resolve().expect("valid");
        assert_eq!(config.threads, 2);
        assert_eq!(config.limits.items_max, 3);
        assert_eq!(config.devices.budgets()[CPU].bytes, 1 << 30);
        assert_eq!(config.objectives.p95.as_millis(), 50);
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("settings.toml");
        std::fs::write(&path, "itemsmax = 3\n").expect("write");
        let error = Options::default().with_file(Some(&path)).expect_err("unknown key");
        assert!(error.to_string().contains("itemsmax"), "{error}");
        for (options, name) in [
            (Options { threads: Some(0), ..Options::default() }, "threads"),
            (
                Options { memory_bytes_max: Some("lots".into()), ..Options::default() },
                "memory_bytes_max",
            ),
            (Options { precision: Some("int3".into()), ..Options::default() }, "precision"),
            (Options { device: Some("tpu:0".into()), ..Options::default() }, "device"),
            (Options { models_dir: Some("/nowhere".into()), ..Options::default() }, "models_dir"),
        ] {
            let error = options.resolve().expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

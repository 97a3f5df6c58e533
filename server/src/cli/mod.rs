//! The command line: one file a command.

mod bench;
mod calibrate;
mod classify;
mod doctor;
mod extract;
mod logits;
mod mails;
mod models;
mod preload;
mod remote;
mod report;
mod serve;
mod stream;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{Config, Options};
use crate::error::Error;

/// Inference server for the small transformer models that read e-mail.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = false)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the models of a folder over HTTP; the bundled ones unless told otherwise
    Serve(serve::Serve),
    /// Classify a mail, a text or standard input
    Classify(classify::Classify),
    /// List, load, unload and pin models
    Models(models::Models),
    /// Load models on a running server and wait until they are ready
    Preload(preload::Preload),
    /// Measure the engine alone: no HTTP, exactly so many tokens
    Bench(bench::Bench),
    /// Measure how far int8 and bf16 are from f32, so that loading the model need not
    Calibrate(calibrate::Calibrate),
    /// Logits of JSON lines, for comparing with other engines
    Logits(logits::Logits),
    /// The text that a model would read of a mail
    Extract(extract::Extract),
    /// What was said, and how often it was right: one page with plots
    Report(report::Report),
    /// What this machine offers, and what is wrong with which model
    Doctor(doctor::Doctor),
}

/// Settings from flags, environment and file.
#[derive(Debug, Default, clap::Args)]
struct Settings {
    #[command(flatten)]
    options: Options,
    /// Settings file [default: postsort.toml, if there is one]
    #[arg(long, env = "POSTSORT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Settings {
    fn resolve(self) -> Result<Config, Error> {
        let config = self.options.with_file(self.config.as_deref())?.resolve()?;
        use_threads(config.threads);
        Ok(config)
    }
}

/// candle computes on rayon's global pool, which is made once.
fn use_threads(threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    // Fails when the pool is there already, of the size that the first call asked for.
    let _ = pool.thread_name(|at| format!("postsort-compute-{at}")).build_global();
}

impl Cli {
    /// Runs the command; without one, serves.
    ///
    /// # Errors
    /// What went wrong, for the person at the terminal.
    pub fn run(self) -> Result<(), Error> {
        match self.command {
            None => serve::Serve::default().run(),
            Some(Command::Serve(command)) => command.run(),
            Some(Command::Classify(command)) => command.run(),
            Some(Command::Models(command)) => command.run(),
            Some(Command::Preload(command)) => command.run(),
            Some(Command::Bench(command)) => command.run(),
            Some(Command::Calibrate(command)) => command.run(),
            Some(Command::Logits(command)) => command.run(),
            Some(Command::Extract(command)) => command.run(),
            Some(Command::Report(command)) => command.run(),
            Some(Command::Doctor(command)) => command.run(),
        }
    }
}

/// Most threads that serve the network.
const NETWORK_THREADS_MAX: usize = 2;

/// A runtime for commands; the network needs few threads beside the compute pool's.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::config::cpus().min(NETWORK_THREADS_MAX))
        .thread_name("postsort-network")
        .enable_all()
        .build()
        .map_err(|e| Error::setup("network threads", e))
}

/// Writes a line to standard output; a reader that has gone away ends the program in silence.
fn print(line: &str) -> Result<(), Error> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| Error::setup("standard output", e)),
    }
}

/// Files in the order of their names, so that what is made of them is the same on every machine.
fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let fails = |e| Error::setup(path.display().to_string(), e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fails)? {
        entries.push(entry.map_err(fails)?.path());
    }
    entries.sort();
    entries.iter().try_for_each(|entry| collect_files(entry, files))
}

/// Drawn on a terminal's standard error, and nowhere else. Without a length, for an end unknown.
fn bar(template: &str, length: Option<u64>) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A file's bytes, or standard input's for `-`.
fn read_input(path: &Path) -> Result<Vec<u8>, Error> {
    let fails = |e| Error::setup(path.display().to_string(), e);
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map_err(fails)?;
        return Ok(bytes);
    }
    std::fs::read(path).map_err(fails)
}

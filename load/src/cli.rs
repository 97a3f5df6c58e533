//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::error::Error;
use crate::memory::Process;
use crate::request::{Long, Priority, Send, Wish};
use crate::target::Target;
use crate::{report, run};

/// Replay mail at a server, or at several in turn, and say how long the answers took
///
/// Requests leave when they are due, whether or not earlier ones are answered, and latency counts
/// from then. Give one of --rates, --load and --closed.
#[derive(Debug, Clone, Parser)]
#[command(name = "postsort-load", version)]
pub struct Cli {
    /// Server: `[NAME=][tei+|oip+]http://HOST:PORT[/PATH]`; several take turns, the first is what the
    /// others are compared with
    #[arg(long = "url", required = true, value_name = "[NAME=]URL")]
    pub targets: Vec<Target>,
    /// Requests a second, comma-separated
    #[arg(long, visible_alias = "rate", value_delimiter = ',', value_name = "R,…")]
    pub rates: Vec<f64>,
    /// Multiples of what the first server does at most, which is found first; comma-separated
    #[arg(long, value_delimiter = ',', value_name = "X,…", conflicts_with = "rates")]
    pub load: Vec<f64>,
    /// Alone: a closed loop of so many connections; with --load: how the most is found [default: 8]
    #[arg(long, value_name = "N")]
    pub closed: Option<usize>,
    /// How long the most is looked for
    #[arg(long, default_value_t = 8.0, value_name = "S")]
    pub find_seconds: f64,
    /// Measured time of each server at each rate
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    pub seconds: f64,
    /// How long a turn is where several servers are compared
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub slice_seconds: f64,
    /// Load before each turn of a server, which does not count
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    pub warm_up_seconds: f64,
    /// Time limit, sent as X-Request-Timeout: later answers are not good
    #[arg(long, value_name = "N")]
    pub timeout_ms: Option<u64>,
    /// A request without an answer by then has failed
    #[arg(long, default_value_t = 60.0, value_name = "S")]
    pub give_up_seconds: f64,
    /// Sent as X-Priority
    #[arg(long)]
    pub priority: Option<Priority>,
    /// What the server does with long mail
    #[arg(long)]
    pub long: Option<Long>,
    /// What /v1/classify is sent; TEI and OIP get text
    #[arg(long, default_value = "raw")]
    pub send: Send,
    /// Let the server answer from memory
    #[arg(long)]
    pub cache: bool,
    /// Besides, a closed loop of so many connections of priority bulk, counted apart
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub beside_bulk: usize,
    /// The model that is asked
    #[arg(long, default_value = "spam")]
    pub model: String,
    /// Folder of mails
    #[arg(long, default_value = "data/spam-assassin", value_name = "DIR")]
    pub mails: PathBuf,
    /// Decides the order of the mails and when they are due
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Most connections to a server; whoever waits for one waits on the clock
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub connections_max: usize,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the latencies
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Process of a server whose memory is looked at
    #[arg(long = "pid", value_name = "[NAME=]PID")]
    pub processes: Vec<Process>,
}

impl Cli {
    /// Measures, and prints the table.
    ///
    /// # Errors
    /// Where options do not go together, files cannot be read or written, or a server never answers.
    pub fn run(self) -> Result<(), Error> {
        self.check()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::file("runtime".as_ref()))?;
        let report = runtime.block_on(run::run(&self))?;
        print!("{}", report::markdown(&report));
        if let Some(path) = &self.json {
            std::fs::write(path, report::json(&report)).map_err(Error::file(path))?;
        }
        if let Some(path) = &self.plot {
            std::fs::write(path, crate::plot::svg(&report)).map_err(Error::file(path))?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        let usage = |text: &str| Err(Error::Usage(text.to_owned()));
        if self.rates.is_empty() && self.load.is_empty() && self.closed.is_none() {
            return usage("say how much: --rate 50, --load 0.7 or --closed 8");
        }
        let amounts = self.rates.iter().chain(&self.load);
        let lengths = [self.seconds, self.slice_seconds, self.find_seconds, self.give_up_seconds];
        if !amounts.chain(&lengths).all(|number| *number > 0.0 && number.is_finite()) {
            return usage("rates, loads and seconds must be above 0");
        }
        if !(0.0..1e6).contains(&self.warm_up_seconds) || lengths.iter().any(|s| *s > 1e6) {
            return usage("seconds must be below a million");
        }
        if self.connections_max == 0 || self.closed == Some(0) {
            return usage("there must be a connection");
        }
        let mut names: Vec<_> = self.targets.iter().map(|target| &target.name).collect();
        names.sort();
        names.dedup();
        if names.len() < self.targets.len() {
            return usage("two servers have one name: --url A=… --url B=…");
        }
        Ok(())
    }

    /// What requests say besides the mail.
    #[must_use]
    pub fn wish(&self) -> Wish {
        Wish {
            model: (!self.model.is_empty()).then(|| self.model.clone()),
            send: self.send,
            long: self.long,
            priority: self.priority,
            timeout_ms: self.timeout_ms,
            cache: self.cache,
        }
    }

    /// After which answers are late.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(arguments: &str) -> Result<(), Error> {
        let arguments = format!("postsort-load --url http://h {arguments}");
        Cli::try_parse_from(arguments.split_whitespace()).expect("arguments").check()
    }

    #[test]
    fn a_load_is_needed() {
        assert!(checked("").is_err());
        for arguments in ["--rate 50", "--rates 20,40", "--load 0.7,3 --closed 4", "--closed 8"] {
            assert!(checked(arguments).is_ok(), "{arguments}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let nonsense = ["--rate 0", "--rate NaN", "--rate 1 --seconds 0", "--closed 0"];
        for arguments in nonsense.into_iter().chain(["--rate 1 --url http://h"]) {
            assert!(checked(arguments).is_err(), "{arguments}");
        }
    }
}

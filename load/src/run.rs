//! A whole run: loads one after the other, servers in turn.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::arrivals::poisson;
use crate::cli::Cli;
use crate::corpus::{self, Mail};
use crate::error::Error;
use crate::memory::{Process, Resident, Watch};
use crate::pool::Pool;
use crate::request::{Priority, Requests, Wish};
use crate::slice::{Asker, Span};
use crate::tally::Tally;
use crate::target::Target;

/// How many connections find the most that a server does, unless told.
const FINDING_CONNECTIONS: usize = 8;

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// So many requests a second, whatever becomes of them.
    Open {
        /// Requests a second.
        rate: f64,
        /// The rate as a multiple of the most, where it was given so.
        multiple: Option<f64>,
    },
    /// So many connections that wait for their answers.
    Closed {
        /// Connections.
        connections: usize,
    },
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { rate, multiple: None } => write!(f, "{rate:.1}/s"),
            Self::Open { rate, multiple: Some(multiple) } => write!(f, "{rate:.1}/s ({multiple}×)"),
            Self::Closed { connections } => write!(f, "closed, {connections}"),
        }
    }
}

/// One server under one load.
#[derive(Debug)]
pub struct Row {
    /// The server's name.
    pub target: String,
    /// What was measured of it.
    pub tally: Tally,
    /// And of the bulk beside it.
    pub bulk: Option<Tally>,
}

/// Every server under one load.
#[derive(Debug)]
pub struct Step {
    /// The load.
    pub load: Load,
    /// In the order of the command line.
    pub rows: Vec<Row>,
}

/// What a run found.
#[derive(Debug)]
pub struct Report {
    /// What was asked for.
    pub cli: Cli,
    /// How many mails there are.
    pub mails: usize,
    /// Good answers a second of the first server in a closed loop, where it was needed.
    pub most: Option<f64>,
    /// In the order of the command line.
    pub steps: Vec<Step>,
    /// Memory of the processes that were looked at.
    pub memory: Vec<(Process, Resident)>,
}

/// A server, and who asks it.
struct Subject {
    name: String,
    asker: Asker,
    /// Without a time limit, by which the server would refuse what it could do.
    patient: Asker,
    bulk: Asker,
}

/// Measures.
///
/// # Errors
/// Where the mails cannot be read, or a server whose most is looked for never answers.
pub async fn run(cli: &Cli) -> Result<Report, Error> {
    let mails = corpus::read(&cli.mails, cli.seed)?;
    let subjects: Vec<Subject> =
        cli.targets.iter().map(|target| subject(cli, target, &mails)).collect::<Result<_, _>>()?;
    let watch = Watch::start(cli.processes.clone());
    let mut runner = Runner { cli, first_mail: 0 };
    let most = match cli.load.is_empty() {
        true => None,
        false => Some(runner.most(&subjects[0]).await?),
    };
    let mut steps = Vec::new();
    for load in loads(cli, most) {
        steps.push(runner.step(load, &subjects).await);
    }
    let memory = watch.end();
    Ok(Report { cli: cli.clone(), mails: mails.len(), most, steps, memory })
}

fn subject(cli: &Cli, target: &Target, mails: &[Mail]) -> Result<Subject, Error> {
    let requests = Requests::new(target, mails, &cli.wish())?;
    let patient = Requests::new(target, mails, &Wish { timeout_ms: None, ..cli.wish() })?;
    let bulk = Arc::new(requests.with_priority(Priority::Bulk));
    let asker = |requests: Arc<Requests>, connections_max| Asker {
        requests,
        pool: Pool::new(&target.host, target.port, connections_max),
        limit: cli.limit(),
        give_up: Duration::from_secs_f64(cli.give_up_seconds),
    };
    Ok(Subject {
        name: target.name.clone(),
        asker: asker(requests.into(), cli.connections_max),
        patient: Asker { limit: None, ..asker(patient.into(), cli.connections_max) },
        bulk: asker(bulk, cli.beside_bulk),
    })
}

fn loads(cli: &Cli, most: Option<f64>) -> Vec<Load> {
    if let Some(most) = most {
        let open = |multiple| Load::Open { rate: most * multiple, multiple: Some(multiple) };
        return cli.load.iter().copied().map(open).collect();
    }
    match (cli.rates.as_slice(), cli.closed) {
        ([], Some(connections)) => vec![Load::Closed { connections }],
        (rates, _) => rates.iter().map(|&rate| Load::Open { rate, multiple: None }).collect(),
    }
}

/// Goes through the loads.
struct Runner<'a> {
    cli: &'a Cli,
    /// Every load begins with the same mails, unless the server may know them by then.
    first_mail: usize,
}

/// Where a load is in the mails and the seeds.
struct Turn {
    next_mail: usize,
    seed: u64,
    warm_up: Duration,
    measured: Duration,
}

impl Runner<'_> {
    /// Good answers a second in a closed loop.
    async fn most(&mut self, subject: &Subject) -> Result<f64, Error> {
        let connections = self.cli.closed.unwrap_or(FINDING_CONNECTIONS);
        eprintln!("looking for the most that {} does with {connections} connections", subject.name);
        let measured = Duration::from_secs_f64(self.cli.find_seconds);
        let span = Span::now(self.warm_up(), measured);
        let (tally, mails) = subject.patient.closed(connections, 0, span).await;
        subject.patient.pool.close();
        // With a cache, mails come once.
        self.first_mail = if self.cli.cache { mails } else { 0 };
        let most = tally.good_per_second();
        if most > 0.0 {
            eprintln!("{} does {most:.1} requests/s", subject.name);
            return Ok(most);
        }
        let reasons = format!("{} late, {} shed, {:?}", tally.late, tally.shed, tally.reasons);
        Err(Error::NoAnswers { target: subject.name.clone(), reasons })
    }

    /// All servers under one load, in turns, the order reversed every other round.
    async fn step(&mut self, load: Load, subjects: &[Subject]) -> Step {
        // A server alone needs no turns.
        let rounds = match subjects.len() {
            1 => 1,
            _ => (self.cli.seconds / self.cli.slice_seconds).ceil().max(1.0) as usize,
        };
        let measured = Duration::from_secs_f64(self.cli.seconds / rounds as f64);
        let bulk = || (self.cli.beside_bulk > 0).then(Tally::default);
        let mut rows: Vec<Row> = subjects
            .iter()
            .map(|subject| Row {
                target: subject.name.clone(),
                tally: Tally::default(),
                bulk: bulk(),
            })
            .collect();
        let mut turn = Turn {
            next_mail: self.first_mail,
            seed: self.cli.seed,
            warm_up: self.warm_up(),
            measured,
        };
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            eprintln!("{load}: round {} of {rounds}", round + 1);
            let mut mails_max = 0;
            for index in order {
                let (tally, bulk, mails) = self.turn(load, &subjects[index], &turn).await;
                rows[index].tally.merge(tally);
                if let (Some(sum), Some(bulk)) = (&mut rows[index].bulk, bulk) {
                    sum.merge(bulk);
                }
                mails_max = mails_max.max(mails);
            }
            turn.next_mail += mails_max;
            turn.seed += 1;
        }
        if self.cli.cache {
            self.first_mail = turn.next_mail;
        }
        Step { load, rows }
    }

    /// One server's turn; how many mails it took, too.
    async fn turn(
        &self,
        load: Load,
        subject: &Subject,
        turn: &Turn,
    ) -> (Tally, Option<Tally>, usize) {
        let Turn { next_mail, seed, warm_up, measured } = *turn;
        // Generated before the clock starts.
        let dues = match load {
            Load::Open { rate, .. } => poisson(rate, warm_up + measured, seed),
            Load::Closed { .. } => Vec::new(),
        };
        let span = Span::now(warm_up, measured);
        let asked = async {
            match load {
                Load::Open { .. } => {
                    let mails = dues.len();
                    (subject.asker.open(dues, next_mail, span).await, mails)
                }
                Load::Closed { connections } => {
                    subject.asker.closed(connections, next_mail, span).await
                }
            }
        };
        // Other mails than the ones beside it, or the server would answer both at once.
        let bulk_mail = next_mail + subject.asker.requests.len() / 2;
        let beside = async {
            match self.cli.beside_bulk {
                0 => None,
                connections => Some(subject.bulk.closed(connections, bulk_mail, span).await.0),
            }
        };
        let ((tally, mails), bulk) = tokio::join!(asked, beside);
        (tally, bulk, mails)
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.cli.warm_up_seconds)
    }
}

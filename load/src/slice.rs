//! One stretch of load on one target.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::arrivals;
use crate::outcome::{Outcome, judge};
use crate::pool::Pool;
use crate::request::Requests;
use crate::tally::Tally;

/// How a target is asked.
#[derive(Debug, Clone)]
pub struct Asker {
    /// What is sent.
    pub requests: Arc<Requests>,
    /// Where.
    pub pool: Arc<Pool>,
    /// Answers after it are late.
    pub limit: Option<Duration>,
    /// Nobody waits longer: then there is no answer.
    pub give_up: Duration,
}

/// When a slice runs, and what of it counts.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its beginning.
    pub start: Instant,
    /// Requests due earlier do not count.
    pub measured: Instant,
    /// Nothing is due any more.
    pub end: Instant,
}

impl Span {
    /// From now on.
    #[must_use]
    pub fn now(warm_up: Duration, measured: Duration) -> Self {
        let start = Instant::now();
        Self { start, measured: start + warm_up, end: start + warm_up + measured }
    }

    fn holds(&self, moment: Instant) -> bool {
        self.measured <= moment && moment < self.end
    }
}

impl Asker {
    /// Asks about mail `index`; latency counts from `due`.
    async fn ask(&self, index: usize, due: Instant, span: Span, tally: &Mutex<Tally>) -> Outcome {
        let lag = due.elapsed();
        let sent = self.pool.send(self.requests.request(index));
        let answer = match tokio::time::timeout(self.give_up, sent).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer in {} s", self.give_up.as_secs_f64())),
        };
        let answered = Instant::now();
        let latency = answered - due;
        // The limit is the server's: it does not know how late the request left.
        let outcome = judge(answer, latency.saturating_sub(lag), self.limit);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome == Outcome::Good && span.holds(answered) {
            tally.good_within += 1;
        }
        if span.holds(due) {
            tally.record(outcome.clone(), latency, lag);
        }
        outcome
    }

    /// Open loop: requests leave at `dues` after the start, mail by mail from `first_mail`.
    pub async fn open(&self, dues: Vec<Duration>, first_mail: usize, span: Span) -> Tally {
        let tally = Arc::new(Mutex::new(new_tally(span)));
        // Every request holds a sender: when all are gone, all are answered.
        let (unanswered, mut answered) = mpsc::channel::<()>(1);
        let mut paced = arrivals::pace(span.start, dues);
        while let Some((index, due)) = paced.recv().await {
            let (asker, tally, unanswered) = (self.clone(), Arc::clone(&tally), unanswered.clone());
            tokio::spawn(async move {
                asker.ask(first_mail + index, due, span, &tally).await;
                drop(unanswered);
            });
        }
        drop(unanswered);
        answered.recv().await;
        take(&tally)
    }

    /// Closed loop: so many connections, each of which sends when it has its answer. Returns how many
    /// mails were sent, too.
    pub async fn closed(
        &self,
        connections: usize,
        first_mail: usize,
        span: Span,
    ) -> (Tally, usize) {
        let tally = Arc::new(Mutex::new(new_tally(span)));
        let next = Arc::new(AtomicUsize::new(first_mail));
        let workers: Vec<_> = (0..connections)
            .map(|_| {
                let (asker, tally, next) = (self.clone(), Arc::clone(&tally), Arc::clone(&next));
                tokio::spawn(async move {
                    while Instant::now() < span.end {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let outcome = asker.ask(index, Instant::now(), span, &tally).await;
                        if let Some(pause) = pause(&outcome) {
                            tokio::time::sleep(pause).await;
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("workers do not panic");
        }
        (take(&tally), next.load(Ordering::Relaxed) - first_mail)
    }
}

/// A client that is refused comes back when told to, within a second; one that fails waits a little.
fn pause(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Shed { retry_after_seconds } => {
            Some(Duration::from_secs_f64(retry_after_seconds.unwrap_or(0.1).clamp(0.01, 1.0)))
        }
        Outcome::Error(_) | Outcome::Transport(_) => Some(Duration::from_millis(10)),
        Outcome::Good | Outcome::Late | Outcome::Expired => None,
    }
}

fn new_tally(span: Span) -> Tally {
    Tally { seconds: (span.end - span.measured).as_secs_f64(), ..Tally::default() }
}

fn take(tally: &Mutex<Tally>) -> Tally {
    std::mem::take(&mut tally.lock().unwrap_or_else(PoisonError::into_inner))
}

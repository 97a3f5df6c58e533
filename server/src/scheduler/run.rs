//! The queue's thread, and the way in.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::admission::{Admission, AdmissionLimits, Demand, Ledger, Refused};
use super::job::{BatchModel, Job, work};
use super::pass::compute;
use super::plan::BatchLimits;
use super::queue::Queue;

/// Bounds of the queue and of a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Bounds of what waits and runs.
    pub admission: AdmissionLimits,
    /// Bounds of one forward pass.
    pub batch: BatchLimits,
    /// How long the dispatcher looks for the jobs of a request that was admitted, for waking it costs
    /// as much as tokenising a short mail; zero to wake it when they are there.
    pub head_start: Duration,
}

/// One device's queue. Dropping it finishes the batch that runs and refuses what waits.
#[derive(Debug)]
pub struct Scheduler<M: BatchModel> {
    shared: Arc<Shared<M>>,
    dispatcher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Shared<M> {
    pub(super) state: Mutex<State<M>>,
    /// There is work, or there will be none any more.
    wake: Condvar,
    /// Changes, under the lock, when jobs join the queue.
    submissions: AtomicUsize,
    /// Somebody left.
    pub(super) room: Notify,
    limits: SchedulerLimits,
}

#[derive(Debug)]
pub(super) struct State<M> {
    pub(super) queue: Queue<M>,
    pub(super) ledger: Ledger,
    /// Until when jobs of an admitted request are looked for.
    expects_until: Option<Instant>,
    closed: bool,
}

impl<M: BatchModel> Scheduler<M> {
    /// Starts the dispatcher thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(limits: SchedulerLimits) -> std::io::Result<Self> {
        let (queue, ledger) = (Queue::default(), Ledger::default());
        let state = Mutex::new(State { queue, ledger, expects_until: None, closed: false });
        let (wake, room, submissions) = (Condvar::new(), Notify::new(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { state, wake, submissions, room, limits });
        let for_thread = Arc::clone(&shared);
        let dispatcher = std::thread::Builder::new()
            .name("postsort-engine".to_owned())
            .spawn(move || for_thread.dispatch())?;
        Ok(Self { shared, dispatcher: Some(dispatcher) })
    }

    /// Room for a request's mails, all or none.
    ///
    /// # Errors
    /// [`Refused`] when they do not fit, or could not be answered by their deadline.
    pub fn admit(&self, demand: Demand) -> Result<Admission<M>, Refused> {
        let SchedulerLimits { admission, head_start, .. } = self.shared.limits;
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.admit(&demand, admission, now)?;
        if !head_start.is_zero() {
            state.expects_until = Some(now + head_start);
            self.shared.wake.notify_one();
        }
        drop(state);
        Ok(Admission::new(Arc::clone(&self.shared), demand))
    }

    /// As [`Self::admit`], waiting for room where there is none.
    ///
    /// # Errors
    /// [`Refused`] where there never will be.
    pub async fn admit_in_turn(&self, demand: Demand) -> Result<Admission<M>, Refused> {
        loop {
            let left = self.shared.room.notified();
            tokio::pin!(left);
            // From here on no departure is missed.
            left.as_mut().enable();
            match self.admit(demand) {
                Err(Refused::Full { queued, .. }) if queued > 0 => left.await,
                done => return done,
            }
        }
    }

    /// Queues admitted jobs together. Every job's reply is sent or dropped, never forgotten.
    ///
    /// # Errors
    /// [`Refused::Late`] when their texts are longer than was guessed and they would be late.
    pub fn submit(&self, admission: &mut Admission<M>, jobs: Vec<Job<M>>) -> Result<(), Refused> {
        let (mut tokens, mut cost) = (0, Duration::ZERO);
        for job in &jobs {
            let more = work(&job.model, &job.windows);
            (tokens, cost) = (tokens + more.0, cost + job.model.cost().pass() + more.1);
        }
        let mut state = self.shared.state.lock();
        admission.queued(&mut state, (tokens, cost), Instant::now())?;
        if !state.closed {
            jobs.into_iter().for_each(|job| state.queue.push(job));
            self.shared.submissions.fetch_add(1, Ordering::Release);
        }
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Mails that wait or run.
    #[must_use]
    pub fn admitted_jobs(&self) -> usize {
        self.shared.state.lock().ledger.jobs()
    }

    /// Mails that may wait or run.
    #[must_use]
    pub fn admitted_jobs_max(&self) -> usize {
        self.shared.limits.admission.jobs_max
    }

    /// What all that is admitted will take.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        self.shared.state.lock().backlog(Instant::now())
    }
}

impl<M: BatchModel> Drop for Scheduler<M> {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.closed = true;
            // Before the dispatcher is waited for: whoever waits for these need not wait for its batch.
            state.queue.clear();
        }
        self.shared.wake.notify_all();
        if let Some(dispatcher) = self.dispatcher.take() {
            // It catches panics of the engine, so there is nothing to learn from the result.
            let _ = dispatcher.join();
        }
    }
}

impl<M: BatchModel> Shared<M> {
    fn dispatch(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            match state.queue.next(self.limits.batch, Instant::now()) {
                None => match state.expects_until.take() {
                    Some(until) => self.look_for_jobs(&mut state, until),
                    None => self.wake.wait(&mut state),
                },
                Some(batch) => {
                    drop(state);
                    batch.model.batched(batch.tokens, batch.jobs());
                    let started = Instant::now();
                    let computed = compute(&batch.model, &batch.windows());
                    let now = Instant::now();
                    batch.model.cost().refine(batch.cost, now - started);
                    state = self.state.lock();
                    state.queue.finish(batch, computed, (started, now));
                }
            }
        }
        // Parts of jobs whose last pass has just ended.
        state.queue.clear();
    }

    fn look_for_jobs(&self, state: &mut MutexGuard<'_, State<M>>, until: Instant) {
        let seen = self.submissions.load(Ordering::Relaxed);
        MutexGuard::unlocked(state, || {
            while self.submissions.load(Ordering::Acquire) == seen && Instant::now() < until {
                spin_loop();
            }
        });
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

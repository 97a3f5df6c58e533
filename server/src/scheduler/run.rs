//! The queue's thread, the way in, and the short way: whoever finds the engine idle computes.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Notify;
use tokio::task::block_in_place;

use super::admission::{Admission, AdmissionLimits, Demand, Ledger, Refused};
use super::job::{BatchModel, Job, Priority, work};
use super::pass::compute;
use super::plan::BatchLimits;
use super::queue::{Batch, Queue};

/// Bounds of the queue and of a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Bounds of what waits and runs.
    pub admission: AdmissionLimits,
    /// Bounds of one forward pass.
    pub batch: BatchLimits,
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
    /// Somebody left.
    pub(super) room: Notify,
    limits: SchedulerLimits,
}

#[derive(Debug)]
pub(super) struct State<M> {
    pub(super) queue: Queue<M>,
    pub(super) ledger: Ledger,
    /// A pass runs.
    computing: bool,
    closed: bool,
}

impl<M: BatchModel> Scheduler<M> {
    /// Starts the dispatcher thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(limits: SchedulerLimits) -> std::io::Result<Self> {
        let (queue, ledger) = (Queue::default(), Ledger::default());
        let state = Mutex::new(State { queue, ledger, computing: false, closed: false });
        let (wake, room) = (Condvar::new(), Notify::new());
        let shared = Arc::new(Shared { state, wake, room, limits });
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
        let admission = self.shared.limits.admission;
        self.shared.state.lock().admit(&demand, admission, Instant::now())?;
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
    /// Whoever finds the engine idle computes the next pass himself, on a runtime that has other
    /// threads for what comes meanwhile: waking the dispatcher, and being woken by it, would cost a
    /// mail of 128 tokens a fiftieth more. Not for back-fills, of which one task has many mails to queue.
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
        if state.closed {
            return Ok(());
        }
        let here = jobs.iter().all(|job| job.priority != Priority::Bulk) && may_compute_here();
        jobs.into_iter().for_each(|job| state.queue.push(job));
        if here && let Some(batch) = state.next(self.shared.limits.batch) {
            drop(state);
            state = block_in_place(|| self.shared.pass(batch));
        }
        // Whoever computes sees to what waits, and tells the dispatcher when he is done.
        let unattended = !state.computing && !state.queue.is_empty();
        drop(state);
        if unattended {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Nobody computes, and nothing waits to be.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.shared.state.lock();
        !state.computing && state.queue.is_empty()
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
            match state.next(self.limits.batch) {
                None => self.wake.wait(&mut state),
                Some(batch) => {
                    drop(state);
                    state = self.pass(batch);
                }
            }
        }
        // Parts of jobs whose last pass has just ended.
        state.queue.clear();
    }

    /// Computes a batch that [`State::next`] gave.
    fn pass(&self, batch: Batch<M>) -> MutexGuard<'_, State<M>> {
        batch.model.batched(batch.tokens, batch.jobs());
        let started = Instant::now();
        let computed = compute(&batch.model, &batch.windows());
        let now = Instant::now();
        batch.model.cost().refine(batch.cost, now - started);
        let mut state = self.state.lock();
        state.queue.finish(batch, computed, (started, now));
        state.computing = false;
        state
    }
}

impl<M: BatchModel> State<M> {
    /// What is to be computed now, by whoever asked: nothing beside a pass that runs.
    fn next(&mut self, limits: BatchLimits) -> Option<Batch<M>> {
        if self.computing {
            return None;
        }
        let batch = self.queue.next(limits, Instant::now());
        self.computing = batch.is_some();
        batch
    }
}

/// Whether the calling thread is one of a runtime that has others to take its place.
fn may_compute_here() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

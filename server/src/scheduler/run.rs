//! The queue and the thread that empties it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::job::{Admission, BatchModel, Job, JobDone, JobError};
use super::plan::{BatchLimits, QueuedJob, next_batch};

/// Bounds of the queue and of a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Most mails that wait or run.
    pub jobs_max: usize,
    /// Bounds of one forward pass.
    pub batch: BatchLimits,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded {
    /// Mails that wait or run.
    pub jobs: usize,
    /// The limit.
    pub jobs_max: usize,
    /// When those will be done, by the rate measured so far.
    pub retry_after: Duration,
}

/// One device's queue. Dropping it finishes the batch that runs and refuses what waits.
#[derive(Debug)]
pub struct Scheduler<M: BatchModel> {
    shared: Arc<Shared<M>>,
    dispatcher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<M> {
    queue: Mutex<Queue<M>>,
    wake: Condvar,
    limits: SchedulerLimits,
    admitted_jobs: Arc<AtomicUsize>,
    /// Smoothed engine time of one job.
    job_nanos: AtomicU64,
}

#[derive(Debug)]
struct Queue<M> {
    jobs: Vec<Job<M>>,
    closed: bool,
}

impl<M: BatchModel> Scheduler<M> {
    /// Starts the dispatcher thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(limits: SchedulerLimits) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: Vec::new(), closed: false }),
            wake: Condvar::new(),
            limits,
            admitted_jobs: Arc::default(),
            job_nanos: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&shared);
        let dispatcher = std::thread::Builder::new()
            .name("postsort-engine".to_owned())
            .spawn(move || for_thread.dispatch())?;
        Ok(Self { shared, dispatcher: Some(dispatcher) })
    }

    /// Room for `jobs` mails, all or none.
    ///
    /// # Errors
    /// [`Overloaded`] when they do not fit.
    pub fn admit(&self, jobs: usize) -> Result<Admission, Overloaded> {
        let shared = &self.shared;
        let jobs_max = shared.limits.jobs_max;
        let admit = |admitted: usize| admitted.checked_add(jobs).filter(|&sum| sum <= jobs_max);
        match shared.admitted_jobs.fetch_update(Ordering::AcqRel, Ordering::Acquire, admit) {
            Ok(_) => Ok(Admission { jobs, admitted_jobs: Arc::clone(&shared.admitted_jobs) }),
            Err(admitted) => {
                let job = Duration::from_nanos(shared.job_nanos.load(Ordering::Relaxed));
                let retry_after = job.saturating_mul(u32::try_from(admitted).unwrap_or(u32::MAX));
                Err(Overloaded { jobs: admitted, jobs_max, retry_after })
            }
        }
    }

    /// Queues admitted jobs together. Every job's reply is sent or dropped, never forgotten.
    pub fn submit(&self, jobs: impl IntoIterator<Item = Job<M>>) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return;
        }
        for job in jobs {
            job.model.queued(job.tokens);
            queue.jobs.push(job);
        }
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Mails that wait or run.
    #[must_use]
    pub fn admitted_jobs(&self) -> usize {
        self.shared.admitted_jobs.load(Ordering::Acquire)
    }

    /// Mails that may wait or run.
    #[must_use]
    pub fn admitted_jobs_max(&self) -> usize {
        self.shared.limits.jobs_max
    }
}

impl<M: BatchModel> Drop for Scheduler<M> {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        waiting.iter().for_each(|job| job.model.dequeued(job.tokens));
        // Before the dispatcher is waited for: whoever waits for these need not wait for its batch.
        drop(waiting);
        self.shared.wake.notify_all();
        if let Some(dispatcher) = self.dispatcher.take() {
            // It catches panics of the engine, so there is nothing to learn from the result.
            let _ = dispatcher.join();
        }
    }
}

impl<M: BatchModel> Shared<M> {
    fn dispatch(&self) {
        while let Some(batch) = self.take_batch() {
            self.run(batch);
        }
    }

    /// Blocks until there is work; `None` when closed.
    fn take_batch(&self) -> Option<Vec<Job<M>>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            drop_unwanted(&mut queue.jobs, Instant::now());
            if !queue.jobs.is_empty() {
                break;
            }
            self.wake.wait(&mut queue);
        }
        let view: Vec<QueuedJob> = queue
            .jobs
            .iter()
            .map(|job| QueuedJob {
                identity: job.model.identity(),
                tokens: job.tokens,
                priority: job.priority,
            })
            .collect();
        let mut planned = next_batch(&view, self.limits.batch).into_iter().peekable();
        let mut at = 0;
        let batch = queue.jobs.extract_if(.., |_| {
            let taken = planned.next_if_eq(&at).is_some();
            at += 1;
            taken
        });
        Some(batch.collect())
    }

    fn run(&self, batch: Vec<Job<M>>) {
        let Some(model) = batch.first().map(|job| job.model.clone()) else { return };
        let started = Instant::now();
        let windows: Vec<_> = batch.iter().flat_map(|job| &job.windows).collect();
        let tokens = batch.iter().map(|job| job.tokens).sum();
        for job in &batch {
            model.dequeued(job.tokens);
        }
        model.batched(tokens, batch.len());
        let computed = catch_unwind(AssertUnwindSafe(|| model.forward(&windows)))
            .map_err(|_| "the engine panicked".to_owned())
            .and_then(|logits| logits.map_err(|error| error.to_string()))
            .and_then(|logits| {
                let complete = logits.len() == windows.len();
                complete.then_some(logits).ok_or_else(|| "the engine lost a sequence".to_owned())
            });
        let infer = started.elapsed();
        self.learn(infer, batch.len());
        match computed {
            Ok(logits) => {
                let mut logits = logits.into_iter();
                for job in batch {
                    let logits = logits.by_ref().take(job.windows.len()).collect();
                    let queue_wait = started.saturating_duration_since(job.queued_at);
                    // A client that has gone away needs no answer.
                    let _ = job.reply.send(Ok(JobDone { logits, queue_wait, infer }));
                }
            }
            Err(reason) => {
                for job in batch {
                    let _ = job.reply.send(Err(JobError::Engine(reason.clone())));
                }
            }
        }
    }

    /// Smooths over about sixteen batches.
    fn learn(&self, infer: Duration, jobs: usize) {
        let nanos = u64::try_from(infer.as_nanos()).unwrap_or(u64::MAX) / jobs.max(1) as u64;
        let old = self.job_nanos.load(Ordering::Relaxed);
        let new = if old == 0 { nanos } else { old - old / 16 + nanos / 16 };
        self.job_nanos.store(new, Ordering::Relaxed);
    }
}

/// Drops jobs whose client has gone away, and those whose deadline has passed.
fn drop_unwanted<M: BatchModel>(jobs: &mut Vec<Job<M>>, now: Instant) {
    for job in jobs.extract_if(.., |job| job.reply.is_closed() || job.deadline <= now) {
        job.model.dequeued(job.tokens);
        // Fails for a client that has gone away.
        let _ = job.reply.send(Err(JobError::Expired));
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

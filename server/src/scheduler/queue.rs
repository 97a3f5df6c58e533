//! What waits, what it will take, and what runs: a state machine over times that it is given.

use std::time::{Duration, Instant};

use postsort_models::Encoding;

use super::job::{BatchModel, DropReason, Job, JobDone, JobError, Priority, work};
use super::plan::{BatchLimits, Pick, QueuedJob, Shares, next_batch};

/// Jobs that wait for the engine.
#[derive(Debug)]
pub(super) struct Queue<M> {
    jobs: Vec<Waiting<M>>,
    shares: Shares,
    /// When the pass that runs will be done, by its cost.
    busy_until: Option<Instant>,
    /// The plan's view of the jobs, kept for its memory.
    view: Vec<QueuedJob>,
}

/// A job with those of its windows that are computed.
#[derive(Debug)]
struct Waiting<M> {
    job: Job<M>,
    states: Vec<Vec<f32>>,
    infer: Duration,
}

/// One forward pass.
#[derive(Debug)]
pub(super) struct Batch<M> {
    /// The model of all of it.
    pub(super) model: M,
    members: Vec<(Waiting<M>, usize)>,
    /// Tokens of all its windows.
    pub(super) tokens: usize,
    /// What it will take.
    pub(super) cost: Duration,
}

/// Of a job's cost this part must be left until its deadline: it is not begun for sure to be late,
/// nor given up for an estimate that is a little too high.
const HOPELESS_PART: f64 = 0.7;

impl<M> Default for Queue<M> {
    fn default() -> Self {
        let (jobs, view) = (Vec::new(), Vec::new());
        Self { jobs, shares: Shares::default(), busy_until: None, view }
    }
}

impl<M: BatchModel> Queue<M> {
    pub(super) fn push(&mut self, job: Job<M>) {
        job.model.queued(tokens(&job.windows));
        let states = Vec::with_capacity(job.windows.len());
        self.jobs.push(Waiting { job, states, infer: Duration::ZERO });
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The next pass, without what nobody waits for any more; `None` for an empty queue.
    pub(super) fn next(&mut self, limits: BatchLimits, now: Instant) -> Option<Batch<M>> {
        self.look(now);
        let mut picks = next_batch(&self.view, limits, &self.shares, now);
        let model = self.jobs[picks.first()?.at].job.model.clone();
        // From the back, so that taking one out moves none that is still to be taken.
        picks.sort_unstable_by_key(|pick| std::cmp::Reverse(pick.at));
        let take = |Pick { at, windows }| (self.jobs.swap_remove(at), windows);
        let members: Vec<_> = picks.into_iter().map(take).collect();
        let (mut tokens, mut cost) = (0, model.cost().pass());
        for (waiting, windows) in &members {
            let more = work(&model, waiting.next_windows(*windows));
            (tokens, cost) = (tokens + more.0, cost + more.1);
        }
        model.dequeued(tokens);
        self.busy_until = Some(now + cost);
        Some(Batch { model, members, tokens, cost })
    }

    /// The pass is over: each job that is complete gets its answer, the others wait for their next.
    /// A job with a window that has no states goes without an answer.
    pub(super) fn finish(
        &mut self,
        batch: Batch<M>,
        computed: Result<Vec<Option<Vec<f32>>>, String>,
        (started, now): (Instant, Instant),
    ) {
        let took = now.saturating_duration_since(started);
        self.busy_until = None;
        for (waiting, windows) in &batch.members {
            let part = tokens(waiting.next_windows(*windows)) as f64 / batch.tokens.max(1) as f64;
            self.shares.charge(waiting.job.model.owner(), took.mul_f64(part), now);
        }
        match computed {
            Ok(states) => {
                let mut states = states.into_iter();
                for (mut waiting, windows) in batch.members {
                    let computed: Vec<_> = states.by_ref().take(windows).collect();
                    let Some(computed) = computed.into_iter().collect::<Option<Vec<_>>>() else {
                        waiting.fail(windows, JobError::OutOfMemory);
                        continue;
                    };
                    waiting.states.extend(computed);
                    waiting.infer += took;
                    if waiting.states.len() == waiting.job.windows.len() {
                        waiting.answer(now);
                    } else {
                        self.jobs.push(waiting);
                    }
                }
            }
            Err(reason) => {
                for (waiting, windows) in batch.members {
                    waiting.fail(windows, JobError::Engine(reason.clone()));
                }
            }
        }
    }

    /// Drops all that waits, unanswered.
    pub(super) fn clear(&mut self) {
        for waiting in self.jobs.drain(..) {
            waiting.job.model.dequeued(waiting.tokens_left());
        }
    }

    /// What will be computed before new work of this owner and priority that takes `cost`: all that
    /// goes first, but of each other owner no more than this one will have used by then.
    pub(super) fn ahead(
        &self,
        (owner, priority): (usize, Priority),
        cost: Duration,
        now: Instant,
    ) -> Duration {
        let (mut all, mut own, mut others) = (Duration::ZERO, Duration::ZERO, Vec::new());
        for waiting in self.jobs.iter().filter(|waiting| waiting.job.priority <= priority) {
            let (cost, who) = (waiting.view().cost_alone(), waiting.job.model.owner());
            all += cost;
            if who == owner {
                own += cost;
            } else if !others.contains(&who) {
                others.push(who);
            }
        }
        let turns = u32::try_from(others.len()).unwrap_or(u32::MAX);
        self.running(now) + own + (all - own).min((own + cost).saturating_mul(turns))
    }

    /// What all that waits and runs will take.
    pub(super) fn backlog(&self, now: Instant) -> Duration {
        let waiting = self.jobs.iter().map(|waiting| waiting.view().cost_alone());
        self.running(now) + waiting.sum::<Duration>()
    }

    fn running(&self, now: Instant) -> Duration {
        self.busy_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }

    /// Views the jobs, but drops those whose client has gone away or that cannot be answered in time.
    fn look(&mut self, now: Instant) {
        let Self { jobs, view, .. } = self;
        view.clear();
        let unwanted = |waiting: &mut Waiting<M>| {
            let job = waiting.view();
            let hopeless = job.deadline <= now + job.cost.mul_f64(HOPELESS_PART);
            let unwanted = hopeless || waiting.job.reply.is_closed();
            if !unwanted {
                view.push(job);
            }
            unwanted
        };
        for waiting in jobs.extract_if(.., unwanted) {
            let cancelled = waiting.job.reply.is_closed();
            let reason = if cancelled { DropReason::Cancelled } else { DropReason::Expired };
            waiting.job.model.dropped(reason);
            waiting.job.model.dequeued(waiting.tokens_left());
            // Fails for a client that has gone away.
            let _ = waiting.job.reply.send(Err(JobError::Expired));
        }
    }
}

impl<M: BatchModel> Batch<M> {
    /// Its windows, those of a job in their order.
    pub(super) fn windows(&self) -> Vec<&Encoding> {
        self.members.iter().flat_map(|(waiting, windows)| waiting.next_windows(*windows)).collect()
    }

    /// Mails that have windows in it.
    pub(super) fn jobs(&self) -> usize {
        self.members.len()
    }
}

impl<M: BatchModel> Waiting<M> {
    fn windows_left(&self) -> &[Encoding] {
        &self.job.windows[self.states.len()..]
    }

    fn next_windows(&self, count: usize) -> &[Encoding] {
        &self.windows_left()[..count]
    }

    fn tokens_left(&self) -> usize {
        tokens(self.windows_left())
    }

    fn view(&self) -> QueuedJob {
        let (job, left) = (&self.job, self.windows_left());
        let (tokens, cost) = work(&job.model, left);
        QueuedJob {
            identity: job.model.identity(),
            owner: job.model.owner(),
            priority: job.priority,
            queued_at: job.queued_at,
            deadline: job.deadline,
            windows: left.len(),
            tokens,
            cost,
            pass_cost: job.model.cost().pass(),
        }
    }

    /// Ends with a pass of so many of its windows, whatever is left of it.
    fn fail(self, windows: usize, error: JobError) {
        let left = self.tokens_left() - tokens(self.next_windows(windows));
        self.job.model.dequeued(left);
        // A client that has gone away needs no answer.
        let _ = self.job.reply.send(Err(error));
    }

    fn answer(self, now: Instant) {
        let waited = now.saturating_duration_since(self.job.queued_at);
        let queue_wait = waited.saturating_sub(self.infer);
        let done = JobDone { states: self.states, queue_wait, infer: self.infer };
        // A client that has gone away needs no answer.
        let _ = self.job.reply.send(Ok(done));
    }
}

fn tokens(windows: &[Encoding]) -> usize {
    windows.iter().map(|window| window.ids.len()).sum()
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

//! Which queued jobs make the next batch: a pure function.

use super::job::Priority;

/// What the plan needs to know of a queued job. The queue is in order of arrival.
#[derive(Clone, Copy, Debug)]
pub struct QueuedJob {
    /// Jobs of equal identity may share a forward pass.
    pub identity: usize,
    /// Tokens of all its windows.
    pub tokens: usize,
    /// Which goes first.
    pub priority: Priority,
}

/// Bounds of one forward pass.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most tokens; a single job that is larger runs alone.
    pub tokens_max: usize,
    /// Most jobs.
    pub jobs_max: usize,
}

/// Positions in `queue` of the next batch, ascending; empty only for an empty queue.
///
/// The oldest job of the most urgent priority leads; jobs of its model join, by priority and then
/// by age, while they fit. A job that does not fit is passed over, so one long mail does not keep
/// short ones out; it leads when it is the oldest.
#[must_use]
pub fn next_batch(queue: &[QueuedJob], limits: BatchLimits) -> Vec<usize> {
    let Some(leader) = (0..queue.len()).min_by_key(|&at| (queue[at].priority, at)) else {
        return Vec::new();
    };
    let mut candidates: Vec<usize> =
        (0..queue.len()).filter(|&at| queue[at].identity == queue[leader].identity).collect();
    candidates.sort_by_key(|&at| (queue[at].priority, at));
    let mut batch = Vec::new();
    let mut tokens = 0;
    for at in candidates {
        let fits = tokens + queue[at].tokens <= limits.tokens_max && batch.len() < limits.jobs_max;
        if at == leader || fits {
            tokens += queue[at].tokens;
            batch.push(at);
        }
    }
    batch.sort_unstable();
    batch
}

#[cfg(test)]
mod tests {
    use super::{BatchLimits, Priority, QueuedJob, next_batch};

    const LIMITS: BatchLimits = BatchLimits { tokens_max: 100, jobs_max: 3 };

    fn job(identity: usize, tokens: usize, priority: Priority) -> QueuedJob {
        QueuedJob { identity, tokens, priority }
    }

    #[test]
    fn table() {
        use Priority::{Bulk, Interactive, Normal};
        let cases: [(&str, Vec<QueuedJob>, Vec<usize>); 7] = [
            ("nothing", vec![], vec![]),
            ("alone", vec![job(1, 10, Normal)], vec![0]),
            (
                "larger than the limit runs alone",
                vec![job(1, 500, Normal), job(1, 10, Normal)],
                vec![0],
            ),
            (
                "one model a batch, oldest first",
                vec![job(1, 10, Normal), job(2, 10, Normal), job(1, 10, Normal)],
                vec![0, 2],
            ),
            (
                "urgent leads",
                vec![job(1, 10, Bulk), job(2, 10, Normal), job(3, 10, Interactive)],
                vec![2],
            ),
            (
                "a long one is passed over",
                vec![job(1, 60, Normal), job(1, 60, Normal), job(1, 40, Normal)],
                vec![0, 2],
            ),
            (
                "at most three, urgent ones first",
                vec![job(1, 1, Bulk), job(1, 1, Normal), job(1, 1, Normal), job(1, 1, Interactive)],
                vec![1, 2, 3],
            ),
        ];
        for (name, queue, expected) in cases {
            assert_eq!(next_batch(&queue, LIMITS), expected, "{name}");
        }
    }
}

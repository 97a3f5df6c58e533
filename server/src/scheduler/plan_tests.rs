use std::time::{Duration, Instant};

use super::super::Priority::{self, Bulk, Interactive, Normal};
use super::{AGED_AFTER, BatchLimits, Pick, QueuedJob, STRETCH, Shares, next_batch};

const LIMITS: BatchLimits = BatchLimits { tokens_max: 100, jobs_max: 3 };
const MS: Duration = Duration::from_millis(1);
const FAR: u32 = 1_000_000;

/// A mail of one window that costs a tenth of a millisecond a token and half a millisecond a pass.
fn job(identity: usize, tokens: u32, priority: Priority, start: Instant) -> QueuedJob {
    QueuedJob {
        identity,
        owner: identity,
        priority,
        queued_at: start,
        deadline: start + MS * FAR,
        windows: 1,
        tokens: tokens as usize,
        cost: MS * tokens / 10,
        pass_cost: MS / 2,
    }
}

/// Positions of the jobs in the next batch, the leader first.
fn batch(queue: &[QueuedJob], now: Instant) -> Vec<usize> {
    let picks = next_batch(queue, LIMITS, &Shares::default(), now);
    picks.into_iter().map(|pick| pick.at).collect()
}

#[test]
fn table() {
    let start = Instant::now();
    let job = |identity, tokens, priority| job(identity, tokens, priority, start);
    let cases: [(&str, Vec<QueuedJob>, &[usize]); 7] = [
        ("nothing", vec![], &[]),
        ("alone", vec![job(1, 10, Normal)], &[0]),
        (
            "larger than the limit runs alone, after a short one",
            vec![job(1, 500, Normal), job(1, 10, Normal)],
            &[1],
        ),
        (
            "one model a batch",
            vec![job(1, 10, Normal), job(2, 10, Normal), job(1, 10, Normal)],
            &[0, 2],
        ),
        (
            "urgent leads, and waits for nobody less urgent",
            vec![job(1, 10, Bulk), job(1, 10, Normal), job(1, 10, Interactive)],
            &[2],
        ),
        (
            "short before long, and a long one is passed over",
            vec![job(1, 60, Normal), job(1, 20, Normal), job(1, 30, Normal)],
            &[1, 2],
        ),
        (
            "at most three",
            vec![job(1, 1, Normal), job(1, 1, Normal), job(1, 1, Normal), job(1, 1, Normal)],
            &[0, 1, 2],
        ),
    ];
    for (name, queue, expected) in cases {
        assert_eq!(batch(&queue, start), expected, "{name}");
    }
}

#[test]
fn a_pass_is_filled_until_its_own_cost_is_a_twentieth() {
    let start = Instant::now();
    let limits = BatchLimits { tokens_max: 10_000, jobs_max: 1000 };
    let count = |pass_cost: Duration| {
        let queue = vec![QueuedJob { pass_cost, ..job(1, 10, Normal, start) }; 100];
        next_batch(&queue, limits, &Shares::default(), start).len()
    };
    assert_eq!(count(MS / 100), 1, "a CPU, where batching saves nothing");
    assert_eq!(count(MS), 19, "a GPU, where a pass is dear");
    assert_eq!(count(Duration::ZERO), 100, "nothing is known of it");
}

#[test]
fn a_long_mail_holds_others_up_for_one_window() {
    let start = Instant::now();
    let long = QueuedJob { windows: 8, tokens: 800, ..job(1, 800, Normal, start) };
    let picks = next_batch(&[long], LIMITS, &Shares::default(), start);
    assert_eq!(picks, [Pick { at: 0, windows: 1 }]);
    let dear =
        QueuedJob { windows: 8, tokens: 160, pass_cost: MS * 50, ..job(1, 160, Normal, start) };
    let picks = next_batch(&[dear], LIMITS, &Shares::default(), start);
    assert_eq!(picks, [Pick { at: 0, windows: 5 }], "what fits in the limit");
}

#[test]
fn a_job_is_overtaken_so_many_times_its_cost_and_no_longer() {
    let start = Instant::now();
    let long = job(1, 80, Normal, start);
    let short =
        |after: Duration| QueuedJob { queued_at: start + after, ..job(1, 40, Normal, start) };
    let now = start + MS * 100;
    let margin = (long.cost - short(MS).cost) * STRETCH;
    assert_eq!(batch(&[long, short(margin - MS)], now)[0], 1);
    assert_eq!(batch(&[long, short(margin + MS)], now)[0], 0);
    // Three quarters of 40 ms, less its own 8 ms and a margin: 20.8 ms after it came.
    let limited = QueuedJob { deadline: start + MS * 40, ..long };
    let short = |after: u32| QueuedJob { cost: MS, ..short(MS * after) };
    assert_eq!(batch(&[limited, short(12)], start + MS * 13)[0], 1);
    assert_eq!(batch(&[limited, short(13)], start + MS * 13)[0], 0);
}

#[test]
fn waiting_lifts_a_job_class_by_class() {
    let start = Instant::now();
    let (bulk, fresh) = (job(1, 10, Bulk, start), |class, now| job(2, 10, class, now));
    let first = |class, after| batch(&[bulk, fresh(class, start + after)], start + after)[0];
    assert_eq!(first(Normal, AGED_AFTER / 2), 1);
    assert_eq!(first(Normal, AGED_AFTER), 0, "as normal as the other, and older");
    assert_eq!(first(Interactive, AGED_AFTER), 1);
    assert_eq!(first(Interactive, AGED_AFTER * 2), 0);
}

#[test]
fn a_deadline_that_would_be_missed_goes_first() {
    let start = Instant::now();
    let urgent = job(1, 50, Interactive, start);
    let due = |millis: u32| QueuedJob { deadline: start + MS * millis, ..job(2, 50, Bulk, start) };
    // Each takes 5.5 ms.
    assert_eq!(batch(&[urgent, due(100)], start)[0], 0, "in time either way");
    assert_eq!(batch(&[urgent, due(9)], start)[0], 1, "in time only if it goes first");
    assert_eq!(batch(&[urgent, due(4)], start)[0], 0, "late either way");
    let sooner = QueuedJob { deadline: start + MS * 7, ..urgent };
    assert_eq!(batch(&[sooner, due(9)], start)[0], 0, "not at the cost of another's deadline");
    // Three that are in time only one after the other, in the order of their deadlines.
    let line = [due(18), due(6), due(12), urgent];
    assert_eq!(batch(&line, start)[0], 1);
}

#[test]
fn engine_time_is_shared_by_cost_not_by_count() {
    let mut shares = Shares::default();
    let mut served = [Duration::ZERO; 2];
    let start = Instant::now();
    // One model's mails cost ten times the other's; both always have some.
    let queue = [job(0, 10, Normal, start), job(1, 100, Normal, start)];
    for _ in 0..110 {
        let at = next_batch(&queue, LIMITS, &shares, start)[0].at;
        let cost = queue[at].cost_alone();
        served[at] += cost;
        shares.charge(queue[at].owner, cost, start);
    }
    let ratio = served[0].as_secs_f64() / served[1].as_secs_f64();
    assert!((0.85..1.15).contains(&ratio), "{served:?}");
}

#[test]
fn who_was_idle_has_saved_nothing_up() {
    let (mut shares, now) = (Shares::default(), Instant::now());
    (0..1000).for_each(|_| shares.charge(1, MS, now));
    assert!(shares.used(1) - shares.used(2) <= MS, "a turn, not a thousand");
    (0..1000).for_each(|owner| shares.charge(owner, MS, now));
    assert!(shares.ahead.len() < 1000, "owners that are not ahead are forgotten");
}

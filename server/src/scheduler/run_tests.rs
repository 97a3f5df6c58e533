use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use postsort_models::{Encoding, ModelError, PassTime};
use tokio::sync::oneshot;

use super::super::{
    BatchModel, CostModel, Demand, DropReason, Job, JobDone, JobError, Priority, Refused, Relief,
};
use super::{Admission, AdmissionLimits, BatchLimits, Scheduler, SchedulerLimits};

/// An engine that answers each sequence with its own ids, notes its batches and can be held.
#[derive(Clone, Debug, Default)]
struct Echo(Arc<EchoState>);

#[derive(Debug, Default)]
struct EchoState {
    batches: Mutex<Vec<usize>>,
    held: Mutex<bool>,
    released: Condvar,
    cost: CostModel,
    dropped: Mutex<Vec<DropReason>>,
    queued_tokens: AtomicIsize,
}

impl Echo {
    fn hold(&self) {
        *self.0.held.lock() = true;
    }
    fn release(&self) {
        *self.0.held.lock() = false;
        self.0.released.notify_all();
    }
    fn wait_for_batches(&self, count: usize) {
        while self.0.batches.lock().len() < count {
            std::thread::yield_now();
        }
    }
}

impl BatchModel for Echo {
    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
    fn owner(&self) -> usize {
        self.identity()
    }
    fn cost(&self) -> &CostModel {
        &self.0.cost
    }
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.0.batches.lock().push(batch.len());
        let mut held = self.0.held.lock();
        while *held {
            self.0.released.wait(&mut held);
        }
        assert!(batch.iter().all(|window| window.ids != [666]), "told to panic");
        Ok(batch.iter().map(|window| window.ids.iter().map(|&id| id as f32).collect()).collect())
    }
    fn make_room(&self) -> bool {
        unreachable!("it has all the memory that it needs")
    }
    fn ran_out_of_memory(&self, _: Relief) {}
    fn queued(&self, tokens: usize) {
        self.0.queued_tokens.fetch_add(tokens as isize, Ordering::Relaxed);
    }
    fn dequeued(&self, tokens: usize) {
        self.0.queued_tokens.fetch_sub(tokens as isize, Ordering::Relaxed);
    }
    fn batched(&self, _: usize, _: usize) {}
    fn dropped(&self, reason: DropReason) {
        self.0.dropped.lock().push(reason);
    }
}

type Reply = oneshot::Receiver<Result<JobDone, JobError>>;

fn job(model: &Echo, ids: &[u32]) -> (Job<Echo>, Reply) {
    let (reply, answer) = oneshot::channel();
    let windows = ids.iter().map(|&id| Encoding { ids: vec![id], type_ids: vec![0] }).collect();
    let job = Job {
        model: model.clone(),
        windows,
        priority: Priority::Normal,
        deadline: Instant::now() + Duration::from_secs(60),
        queued_at: Instant::now(),
        reply,
    };
    (job, answer)
}

fn scheduler(jobs_max: usize) -> Scheduler<Echo> {
    let batch = BatchLimits { tokens_max: 1000, jobs_max: 100 };
    let admission = AdmissionLimits { jobs_max, tokens_max: 1000 };
    Scheduler::start(SchedulerLimits { admission, batch }).expect("a thread")
}

fn demand(owner: usize, jobs: usize) -> Demand {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (cost, priority) = (Duration::ZERO, Priority::Normal);
    Demand { owner, jobs, tokens: jobs * 10, cost, priority, deadline }
}

fn submit(scheduler: &Scheduler<Echo>, jobs: Vec<Job<Echo>>) -> Admission<Echo> {
    let mut admission = scheduler.admit(demand(1, jobs.len())).expect("room");
    scheduler.submit(&mut admission, jobs).expect("in time");
    admission
}

#[tokio::test]
async fn what_queues_up_while_busy_goes_as_one_batch_and_each_gets_its_own_answer() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    echo.hold();
    let (first, first_answer) = job(&echo, &[1]);
    let _first = submit(&scheduler, vec![first]);
    echo.wait_for_batches(1);
    let (jobs, answers): (Vec<_>, Vec<_>) =
        (2..10_u32).map(|id| job(&echo, &[id, 100 + id])).unzip();
    let _jobs = submit(&scheduler, jobs);
    echo.release();
    assert_eq!(first_answer.await.expect("reply").expect("done").states, [[1.0]]);
    for (id, answer) in (2..10_u16).zip(answers) {
        let done = answer.await.expect("reply").expect("done");
        assert_eq!(done.states, [[f32::from(id)], [f32::from(100 + id)]]);
    }
    assert_eq!(*echo.0.batches.lock(), [1, 16]);
}

/// On a runtime with other threads, whoever finds the engine idle has his answer when he has queued
/// his jobs; what others queue meanwhile is seen to when he is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_the_engine_idle_computes_and_leaves_nobody_waiting() {
    let (echo, scheduler) = (Echo::default(), Arc::new(scheduler(100)));
    assert!(scheduler.is_idle());
    let (own, mut answer) = job(&echo, &[1]);
    drop(submit(&scheduler, vec![own]));
    assert_eq!(answer.try_recv().expect("there already").expect("done").states, [[1.0]]);
    assert!(scheduler.is_idle());

    echo.hold();
    let (first, first_answer) = job(&echo, &[2]);
    let computing = Arc::clone(&scheduler);
    let computing = tokio::spawn(async move { submit(&computing, vec![first]) });
    while echo.0.batches.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!scheduler.is_idle());
    let (jobs, answers): (Vec<_>, Vec<_>) = (3..6).map(|id| job(&echo, &[id])).unzip();
    let _jobs = submit(&scheduler, jobs);
    assert_eq!(echo.0.batches.lock().len(), 2, "one pass at a time");
    echo.release();
    first_answer.await.expect("reply").expect("done");
    for (id, answer) in (3..6_u16).zip(answers) {
        assert_eq!(answer.await.expect("reply").expect("done").states, [[f32::from(id)]]);
    }
    drop(computing.await);
    assert_eq!(*echo.0.batches.lock(), [1, 1, 3]);
}

/// A back-fill's task has more to queue than the first mail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_fills_are_left_to_the_dispatcher() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    echo.hold();
    let (mut bulk, answer) = job(&echo, &[1]);
    bulk.priority = Priority::Bulk;
    let _admission = submit(&scheduler, vec![bulk]);
    echo.release();
    assert_eq!(answer.await.expect("reply").expect("done").states, [[1.0]]);
}

#[tokio::test]
async fn cancelled_and_expired_jobs_cost_no_forward_pass() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    echo.hold();
    let (first, first_answer) = job(&echo, &[1]);
    let _first = submit(&scheduler, vec![first]);
    echo.wait_for_batches(1);
    let (cancelled, cancelled_answer) = job(&echo, &[2]);
    let (mut expired, expired_answer) = job(&echo, &[3]);
    expired.deadline = Instant::now();
    let (wanted, wanted_answer) = job(&echo, &[4]);
    let _cancelled = submit(&scheduler, vec![cancelled, expired, wanted]);
    drop(cancelled_answer);
    echo.release();
    first_answer.await.expect("reply").expect("done");
    assert_eq!(expired_answer.await.expect("reply"), Err(JobError::Expired));
    assert_eq!(wanted_answer.await.expect("reply").expect("done").states, [[4.0]]);
    assert_eq!(*echo.0.batches.lock(), [1, 1]);
    assert_eq!(*echo.0.dropped.lock(), [DropReason::Cancelled, DropReason::Expired]);
}

#[tokio::test]
async fn a_panic_fails_its_batch_only() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    let (bad, bad_answer) = job(&echo, &[666]);
    let _bad = submit(&scheduler, vec![bad]);
    let error = bad_answer.await.expect("reply").expect_err("panicked");
    assert!(matches!(error, JobError::Engine(_)));
    let (good, good_answer) = job(&echo, &[5]);
    let _good = submit(&scheduler, vec![good]);
    assert_eq!(good_answer.await.expect("reply").expect("done").states, [[5.0]]);
}

#[test]
fn admission_is_all_or_none_and_given_back() {
    let scheduler = scheduler(10);
    let eight = scheduler.admit(demand(1, 8)).expect("fits");
    let refused = scheduler.admit(demand(1, 3)).expect_err("does not fit");
    assert!(matches!(refused, Refused::Full { queued: 8, queued_max: 10, unit: "mails", .. }));
    let two = scheduler.admit(demand(1, 2)).expect("fits");
    assert_eq!(scheduler.admitted_jobs(), 10);
    drop((eight, two));
    assert_eq!(scheduler.admitted_jobs(), 0);
    assert!(scheduler.admit(demand(1, usize::MAX / 10)).is_err(), "no overflow");
}

#[test]
fn tokens_are_bounded_too_but_a_large_request_is_let_in_alone() {
    let scheduler = scheduler(100);
    let large = |tokens| Demand { tokens, ..demand(1, 1) };
    let alone = scheduler.admit(large(5000)).expect("nobody is there");
    let refused = scheduler.admit(large(1)).expect_err("does not fit");
    assert!(matches!(refused, Refused::Full { queued: 5000, unit: "tokens", .. }), "{refused:?}");
    drop(alone);
    let mut guessed = scheduler.admit(large(900)).expect("fits");
    assert!(scheduler.admit(large(200)).is_err());
    scheduler.submit(&mut guessed, Vec::new()).expect("in time");
    scheduler.admit(large(200)).expect("it had fewer tokens than guessed");
}

#[test]
fn one_model_and_back_fills_leave_room_for_others() {
    let scheduler = scheduler(10);
    let _other = scheduler.admit(demand(2, 1)).expect("fits");
    let hot = scheduler.admit(demand(1, 8)).expect("four fifths");
    assert!(scheduler.admit(demand(1, 1)).is_err(), "no more than that of one model");
    scheduler.admit(demand(2, 1)).expect("the other has room");
    drop(hot);
    let bulk = |jobs| Demand { priority: Priority::Bulk, ..demand(2, jobs) };
    assert!(scheduler.admit(bulk(6)).is_err(), "three fifths for back-fills");
    let _bulk = scheduler.admit(bulk(5)).expect("fits");
    scheduler.admit(demand(2, 2)).expect("those who do not wait have the rest");
}

#[test]
fn what_cannot_be_in_time_is_refused_at_once() {
    let scheduler = scheduler(10);
    let with = |cost, timeout| {
        let (cost, timeout) = (Duration::from_millis(cost), Duration::from_millis(timeout));
        Demand { cost, deadline: Instant::now() + timeout, ..demand(1, 1) }
    };
    let first = scheduler.admit(with(1000, 1)).expect("nobody before it: it tries");
    let refused = scheduler.admit(with(100, 500)).expect_err("a second is ahead of it");
    let Refused::Late { expected, retry_after } = refused else { panic!("{refused:?}") };
    assert_eq!(expected, Duration::from_millis(1265), "the second, its own cost, a margin");
    assert!((760..=766).contains(&retry_after.as_millis()), "{retry_after:?}");
    scheduler.admit(with(100, 2000)).expect("it has time");
    let urgent = Demand { priority: Priority::Interactive, ..with(100, 500) };
    scheduler.admit(urgent).expect("it goes before them");
    assert_eq!(scheduler.backlog(), Duration::from_secs(1));
    drop(first);
    assert_eq!(scheduler.backlog(), Duration::ZERO);
}

#[test]
fn a_text_that_is_longer_than_guessed_is_refused_before_it_is_computed() {
    let (echo, scheduler) = (Echo::default(), scheduler(10));
    let took = Duration::from_millis(100);
    let measured = |sequences: usize, took| PassTime { sequences, sequence_tokens: 1, took };
    echo.0.cost.fit(&[measured(1, took), measured(2, took * 2)]);
    let timeout = |millis| Instant::now() + Duration::from_millis(millis);
    let guess = |cost: Duration, deadline| Demand { cost, deadline, ..demand(1, 1) };
    let _before = scheduler.admit(guess(took, timeout(60_000))).expect("room");
    let mut admission = scheduler.admit(guess(took, timeout(400))).expect("it seems in time");
    let (job, mut answer) = job(&echo, &[1, 2, 3, 4, 5]);
    let refused = scheduler.submit(&mut admission, vec![job]).expect_err("five windows");
    assert!(matches!(refused, Refused::Late { .. }), "{refused:?}");
    assert!(answer.try_recv().is_err(), "not computed");
    drop(admission);
    assert_eq!(scheduler.admitted_jobs(), 1);
}

#[tokio::test]
async fn those_in_turn_wait_for_room() {
    let scheduler = Arc::new(scheduler(10));
    let all = scheduler.admit(demand(1, 10)).expect("fits");
    let waiting = Arc::clone(&scheduler);
    let waiting = tokio::spawn(async move { waiting.admit_in_turn(demand(1, 6)).await.map(drop) });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(all);
    waiting.await.expect("no panic").expect("room");
    assert!(scheduler.admit_in_turn(demand(1, 11)).await.is_err(), "there never will be");
}

/// Jobs from many threads, half of them of a runtime and so computing what they find to do, some
/// given up, some with too little time, while the engine runs: each gets one answer, its own, or is
/// dropped; and all counts are at zero in the end.
#[test]
fn nothing_is_lost_or_answered_twice() {
    let (echo, scheduler) = (Echo::default(), Arc::new(scheduler(10_000)));
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let client = |thread: u32| {
        let (echo, scheduler) = (echo.clone(), Arc::clone(&scheduler));
        let runtime = runtime.handle().clone();
        std::thread::spawn(move || {
            let _of_it = thread.is_multiple_of(2).then(|| runtime.enter());
            let mut answered = 0;
            for round in 0..300_u32 {
                let id = 1000 + thread * 1000 + round;
                let ids: Vec<u32> = (0..=round % 5).map(|window| id * 8 + window).collect();
                let (mut job, answer) = job(&echo, &ids);
                job.priority = Priority::ALL[round as usize % 3];
                if round % 7 == 0 {
                    job.deadline = Instant::now();
                }
                let _admission = submit(&scheduler, vec![job]);
                if round % 11 == 0 {
                    continue;
                }
                match answer.blocking_recv().expect("never forgotten") {
                    Ok(done) => {
                        let expected: Vec<_> = ids.iter().map(|&id| vec![id as f32]).collect();
                        assert_eq!(done.states, expected);
                        answered += 1;
                    }
                    Err(error) => assert_eq!((error, round % 7), (JobError::Expired, 0)),
                }
            }
            answered
        })
    };
    let clients: Vec<_> = (0..8).map(client).collect();
    for client in clients {
        assert!(client.join().expect("no panic") >= 233, "all with time that were waited for");
    }
    drop(scheduler);
    assert_eq!(echo.0.queued_tokens.load(Ordering::Relaxed), 0);
    assert!(echo.0.dropped.lock().contains(&DropReason::Expired));
}

#[tokio::test]
async fn closing_answers_or_drops_every_job() {
    let (echo, scheduler) = (Echo::default(), scheduler(10));
    echo.hold();
    let (running, running_answer) = job(&echo, &[1]);
    let _running = submit(&scheduler, vec![running]);
    echo.wait_for_batches(1);
    let (waiting, waiting_answer) = job(&echo, &[2]);
    let _waiting = submit(&scheduler, vec![waiting]);
    let closing = std::thread::spawn(move || drop(scheduler));
    assert!(waiting_answer.await.is_err(), "refused");
    echo.release();
    running_answer.await.expect("reply").expect("done");
    closing.join().expect("closed");
}

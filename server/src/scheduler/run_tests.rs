use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use postsort_models::{Encoding, ModelError};
use tokio::sync::oneshot;

use super::super::{BatchModel, Job, JobDone, JobError, Priority};
use super::{BatchLimits, Scheduler, SchedulerLimits};

/// An engine that answers each sequence with its own ids, notes its batches and can be held.
#[derive(Clone, Default)]
struct Echo(Arc<EchoState>);

#[derive(Default)]
struct EchoState {
    batches: Mutex<Vec<usize>>,
    held: Mutex<bool>,
    released: Condvar,
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
    fn forward(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.0.batches.lock().push(batch.len());
        let mut held = self.0.held.lock();
        while *held {
            self.0.released.wait(&mut held);
        }
        assert!(batch.iter().all(|window| window.ids != [666]), "told to panic");
        Ok(batch.iter().map(|window| window.ids.iter().map(|&id| id as f32).collect()).collect())
    }
    fn queued(&self, _: usize) {}
    fn dequeued(&self, _: usize) {}
    fn batched(&self, _: usize, _: usize) {}
}

type Reply = oneshot::Receiver<Result<JobDone, JobError>>;

fn job(model: &Echo, ids: &[u32]) -> (Job<Echo>, Reply) {
    let (reply, answer) = oneshot::channel();
    let windows = ids.iter().map(|&id| Encoding { ids: vec![id], type_ids: vec![0] }).collect();
    let job = Job {
        model: model.clone(),
        windows,
        tokens: ids.len(),
        priority: Priority::Normal,
        deadline: Instant::now() + Duration::from_secs(60),
        queued_at: Instant::now(),
        reply,
    };
    (job, answer)
}

fn scheduler(jobs_max: usize) -> Scheduler<Echo> {
    let batch = BatchLimits { tokens_max: 1000, jobs_max: 100 };
    Scheduler::start(SchedulerLimits { jobs_max, batch }).expect("a thread")
}

#[tokio::test]
async fn what_queues_up_while_busy_goes_as_one_batch_and_each_gets_its_own_answer() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    echo.hold();
    let (first, first_answer) = job(&echo, &[1]);
    scheduler.submit([first]);
    echo.wait_for_batches(1);
    let (jobs, answers): (Vec<_>, Vec<_>) =
        (2..10_u32).map(|id| job(&echo, &[id, 100 + id])).unzip();
    scheduler.submit(jobs);
    echo.release();
    assert_eq!(first_answer.await.expect("reply").expect("done").logits, [[1.0]]);
    for (id, answer) in (2..10_u16).zip(answers) {
        let done = answer.await.expect("reply").expect("done");
        assert_eq!(done.logits, [[f32::from(id)], [f32::from(100 + id)]]);
    }
    assert_eq!(*echo.0.batches.lock(), [1, 16]);
}

#[tokio::test]
async fn cancelled_and_expired_jobs_cost_no_forward_pass() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    echo.hold();
    let (first, first_answer) = job(&echo, &[1]);
    scheduler.submit([first]);
    echo.wait_for_batches(1);
    let (cancelled, cancelled_answer) = job(&echo, &[2]);
    let (mut expired, expired_answer) = job(&echo, &[3]);
    expired.deadline = Instant::now();
    let (wanted, wanted_answer) = job(&echo, &[4]);
    scheduler.submit([cancelled, expired, wanted]);
    drop(cancelled_answer);
    echo.release();
    first_answer.await.expect("reply").expect("done");
    assert_eq!(expired_answer.await.expect("reply"), Err(JobError::Expired));
    assert_eq!(wanted_answer.await.expect("reply").expect("done").logits, [[4.0]]);
    assert_eq!(*echo.0.batches.lock(), [1, 1]);
}

#[tokio::test]
async fn a_panic_fails_its_batch_only() {
    let (echo, scheduler) = (Echo::default(), scheduler(100));
    let (bad, bad_answer) = job(&echo, &[666]);
    scheduler.submit([bad]);
    let error = bad_answer.await.expect("reply").expect_err("panicked");
    assert!(matches!(error, JobError::Engine(_)));
    let (good, good_answer) = job(&echo, &[5]);
    scheduler.submit([good]);
    assert_eq!(good_answer.await.expect("reply").expect("done").logits, [[5.0]]);
}

#[test]
fn admission_is_all_or_none_and_given_back() {
    let scheduler = scheduler(10);
    let eight = scheduler.admit(8).expect("fits");
    let refused = scheduler.admit(3).expect_err("does not fit");
    assert_eq!((refused.jobs, refused.jobs_max), (8, 10));
    let two = scheduler.admit(2).expect("fits");
    drop((eight, two));
    assert_eq!(scheduler.admitted_jobs(), 0);
    assert!(scheduler.admit(usize::MAX).is_err(), "no overflow");
}

#[tokio::test]
async fn closing_answers_or_drops_every_job() {
    let (echo, scheduler) = (Echo::default(), scheduler(10));
    echo.hold();
    let (running, running_answer) = job(&echo, &[1]);
    scheduler.submit([running]);
    echo.wait_for_batches(1);
    let (waiting, waiting_answer) = job(&echo, &[2]);
    scheduler.submit([waiting]);
    let closing = std::thread::spawn(move || drop(scheduler));
    assert!(waiting_answer.await.is_err(), "refused");
    echo.release();
    running_answer.await.expect("reply").expect("done");
    closing.join().expect("closed");
}

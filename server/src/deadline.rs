//! A time limit that costs nothing where there is no waiting.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

/// What `work` gives, or nothing at the `deadline`. A timer is made only once it has to be waited for: most
/// bodies are there when they are asked for, and most answers are known.
pub(crate) async fn until<T>(
    deadline: impl FnOnce() -> Instant,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(done);
    }
    tokio::time::timeout_at(deadline().into(), work).await.ok()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::{Duration, Instant};

    use super::until;

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_asked_for_only_by_what_waits() {
        let unasked = || unreachable!("nothing waits");
        assert_eq!(until(unasked, ready(1)).await, Some(1));
        let soon = || Instant::now() + Duration::from_secs(1);
        let later = async {
            tokio::time::sleep(Duration::from_millis(900)).await;
            2
        };
        assert_eq!(until(soon, later).await, Some(2));
        assert_eq!(until(soon, pending::<u8>()).await, None);
    }
}

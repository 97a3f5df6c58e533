//! When requests are due: a Poisson process, the same for every target.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Moments after the start, in order, `rate` of them a second on average, until `span` is over.
///
/// Independent customers arrive like this: gaps are exponential, so that bursts come as they would.
#[must_use]
pub fn poisson(rate: f64, span: Duration, seed: u64) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut dues = Vec::new();
    let mut due = 0.0;
    loop {
        // f64() is in [0, 1): its complement has a logarithm.
        due += -(1.0 - random.f64()).ln() / rate;
        if due >= span.as_secs_f64() {
            return dues;
        }
        dues.push(Duration::from_secs_f64(due));
    }
}

/// Says each moment when it comes: its index, and when it should have been.
///
/// A thread of its own sleeps, because the runtime's timers are no finer than a millisecond.
#[must_use]
pub fn pace(start: Instant, dues: Vec<Duration>) -> UnboundedReceiver<(usize, Instant)> {
    let (tx, rx) = unbounded_channel();
    std::thread::spawn(move || {
        for (index, due) in dues.into_iter().enumerate() {
            let due = start + due;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if tx.send((index, due)).is_err() {
                break;
            }
        }
    });
    rx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential() {
        let dues = poisson(1000.0, Duration::from_secs(100), 7);
        let gaps: Vec<f64> =
            dues.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        assert!((mean / 1e-3 - 1.0).abs() < 0.02, "{mean}");
        // An exponential distribution's variance is its mean squared.
        assert!((variance / 1e-6 - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn counts_of_a_second_vary_like_poissons() {
        let dues = poisson(50.0, Duration::from_secs(2000), 3);
        let mut counts = vec![0.0_f64; 2000];
        for due in &dues {
            counts[due.as_secs() as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 2000.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 2000.0;
        assert!((mean / 50.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance / mean - 1.0).abs() < 0.15, "{variance}");
    }

    #[test]
    fn a_seed_says_it_all() {
        let span = Duration::from_secs(2);
        assert_eq!(poisson(100.0, span, 1), poisson(100.0, span, 1));
        assert_ne!(poisson(100.0, span, 1), poisson(100.0, span, 2));
    }

    #[tokio::test]
    async fn nothing_is_said_before_it_is_due() {
        let dues = vec![Duration::ZERO, Duration::from_millis(5), Duration::from_millis(6)];
        let mut paced = pace(Instant::now(), dues);
        let mut seen = 0;
        while let Some((index, due)) = paced.recv().await {
            assert!(due <= Instant::now());
            assert_eq!(index, seen);
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}

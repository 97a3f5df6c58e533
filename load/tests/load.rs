//! Against small servers that misbehave on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use postsort_load::arrivals::poisson;
use postsort_load::corpus::Mail;
use postsort_load::pool::Pool;
use postsort_load::request::{Requests, Send, Wish};
use postsort_load::slice::{Asker, Span};
use postsort_load::tally::Tally;
use tokio::net::TcpListener;

const ANSWER: &str = r#"[{"label":"spam","score":0.9}]"#;

/// Answers with what `answer` makes of the count of requests before; none closes the connection.
async fn serve<F, A>(answer: F) -> SocketAddr
where
    F: Fn(usize) -> A + Clone + std::marker::Send + Sync + 'static,
    A: Future<Output = Option<(u16, &'static str)>> + std::marker::Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, seen) = (answer.clone(), Arc::clone(&seen));
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, index) = (answer.clone(), seen.fetch_add(1, Ordering::Relaxed));
                async move {
                    drop(request.into_body().collect().await);
                    let (status, body) = answer(index).await.ok_or("closed")?;
                    let response = Response::builder().status(status).header("retry-after", "2");
                    Ok::<_, &str>(response.body(Full::new(Bytes::from(body))).expect("valid"))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn asker(address: SocketAddr, limit_ms: u64, connections_max: usize) -> Asker {
    let target = format!("http://{address}").parse().expect("a target");
    let mails = [Mail { raw: Bytes::from_static(b"Subject: a\r\n\r\nb"), text: "a b".into() }];
    let wish = Wish {
        model: None,
        send: Send::Raw,
        long: None,
        priority: None,
        timeout_ms: Some(limit_ms),
        cache: false,
    };
    Asker {
        requests: Requests::new(&target, &mails, &wish).expect("requests").into(),
        pool: Pool::new(&target.host, target.port, connections_max),
        limit: Some(Duration::from_millis(limit_ms)),
        give_up: Duration::from_secs(5),
    }
}

/// A request every so many milliseconds.
fn every(ms: u64, times: u64) -> Vec<Duration> {
    (0..times).map(|index| Duration::from_millis(ms * index)).collect()
}

async fn open(asker: &Asker, dues: Vec<Duration>) -> Tally {
    asker.open(dues, 0, Span::now(Duration::ZERO, Duration::from_secs(10))).await
}

#[tokio::test]
async fn whoever_is_due_in_a_stall_shows_it() {
    // Nobody is answered in the first 200 ms.
    let start = Instant::now();
    let stalled = start + Duration::from_millis(200);
    let address = serve(move |_| async move {
        tokio::time::sleep_until(stalled.into()).await;
        Some((200, ANSWER))
    })
    .await;
    // One connection: most requests wait for it, which a closed loop would not notice.
    let tally = open(&asker(address, 5000, 1), every(5, 100)).await;
    assert_eq!((tally.sent, tally.good), (100, 100));
    // 40 of the 100 were due in the stall, and waited 100 ms on average.
    let [p50, p70, max] = [0.5, 0.7, 1.0].map(|share| tally.latency_ms(share).expect("answers"));
    assert!(max > 150.0, "{max}");
    assert!(p70 > 20.0, "{p70}");
    assert!(p50 < p70 && p50 < 100.0, "{p50}");
}

#[tokio::test]
async fn outcomes_are_told_apart() {
    let address = serve(|index| async move {
        match index % 6 {
            0 => Some((200, ANSWER)),
            1 => Some((429, "{}")),
            2 => Some((504, "{}")),
            3 => Some((200, "it works!")),
            4 => Some((500, "{}")),
            _ => None,
        }
    })
    .await;
    let tally = open(&asker(address, 4000, 8), every(2, 60)).await;
    assert_eq!((tally.sent, tally.good, tally.late), (60, 10, 0));
    assert_eq!((tally.shed, tally.expired, tally.errors, tally.transport), (10, 10, 20, 10));
    assert_eq!(tally.reasons["200 without a score"], 10);
    assert_eq!(tally.reasons["500"], 10);
    assert_eq!(tally.reasons["connection closed"], 10);
    assert_eq!(tally.retry_after_seconds().map(f64::round), Some(2.0));
}

#[tokio::test]
async fn answers_after_the_limit_are_late() {
    let address = serve(|index| async move {
        tokio::time::sleep(Duration::from_millis(if index < 5 { 300 } else { 0 })).await;
        Some((200, ANSWER))
    })
    .await;
    let tally = open(&asker(address, 150, 64), every(20, 20)).await;
    assert_eq!((tally.good, tally.late), (15, 5));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_transport_error() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = gone.local_addr().expect("an address");
    drop(gone);
    let tally = open(&asker(address, 100, 8), every(1, 5)).await;
    assert_eq!((tally.sent, tally.transport), (5, 5));
    assert_eq!(tally.reasons["connect: connection refused"], 5);
}

#[tokio::test]
async fn a_closed_loop_waits_for_its_answers() {
    let address = serve(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((200, ANSWER))
    })
    .await;
    let span = Span::now(Duration::from_millis(100), Duration::from_millis(400));
    let (tally, mails) = asker(address, 1000, 4).closed(2, 0, span).await;
    assert!((1..=42).contains(&tally.sent), "{}", tally.sent);
    assert!(mails as u64 > tally.sent, "{mails}");
    assert!(tally.good_per_second() <= 110.0, "{}", tally.good_per_second());
}

#[tokio::test]
async fn what_is_due_in_the_warm_up_does_not_count() {
    let address = serve(|_| async { Some((200, ANSWER)) }).await;
    let span = Span::now(Duration::from_millis(100), Duration::from_millis(200));
    let dues = poisson(500.0, Duration::from_millis(300), 1);
    let counted = dues.iter().filter(|due| **due >= Duration::from_millis(100)).count();
    let tally = asker(address, 1000, 64).open(dues, 0, span).await;
    assert_eq!(tally.sent, counted as u64);
}

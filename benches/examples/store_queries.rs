//! What the store's queries take on a journal of so many verdicts:
//! `cargo run --release -p postsort-benches --example store_queries -- sqlite:FILE 10000000`.
//! A store that has rows already is filled up to that many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use postsort_store::{
    AnswerRecord, HistoryFilter, Observe, Of, RevisionName, Store, StoreKind, StoreSettings,
    VerdictRecord,
};

const DAYS: u64 = 30;
const MODELS: [&str; 4] = ["spam", "topic", "sentiment", "urgency"];
const LABELS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
const TIMES: usize = 200;
const FLUSH: Duration = Duration::from_secs(600);
/// Rows between two looks whether they have been written: half of the queue.
const ROWS_A_FLUSH: u64 = 1 << 15;

#[derive(Default)]
struct Taken(Mutex<BTreeMap<&'static str, Vec<Duration>>>);

impl Observe for Taken {
    fn query(&self, query: &'static str, took: Duration, _: bool) {
        self.0.lock().expect("no panic").entry(query).or_default().push(took);
    }
    fn job(&self, job: &'static str, took: Duration, dropped: u64) {
        eprintln!("upkeep {job}: {:.0} ms, {dropped} rows", took.as_secs_f64() * 1e3);
    }
}

fn mail(number: u64) -> [u8; 16] {
    let mixed = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    mixed.to_be_bytes()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, rows] = &arguments[..] else { panic!("store_queries STORE ROWS") };
    let (kind, rows): (StoreKind, u64) =
        (kind.parse().expect("a store"), rows.parse().expect("a number"));
    let taken = Arc::new(Taken::default());
    let settings = StoreSettings { verdicts_max: u64::MAX, ..StoreSettings::new(kind) };
    let store = Store::start(settings, Arc::clone(&taken) as Arc<dyn Observe>).expect("a store");
    store.opened().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.reading().rows.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let there =
        store.reading().rows.iter().find(|(name, _)| name == "verdicts").map_or(0, |row| row.1);
    fill(&store, there, rows).await;
    taken.0.lock().expect("no panic").retain(|query, _| query.ends_with("_put"));
    ask(&store, rows).await;
    println!(
        "{:20} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "query", "times", "mean ms", "median", "p99", "max"
    );
    for (query, times) in &mut *taken.0.lock().expect("no panic") {
        times.sort();
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).expect("few");
        let at = |share: usize| ms(times[(times.len() - 1) * share / 100]);
        println!(
            "{query:20} {:7} {:9.3} {:9.3} {:9.3} {:9.3}",
            times.len(),
            ms(mean),
            at(50),
            at(99),
            at(100)
        );
    }
    println!("database: {:.2} GB", store.reading().bytes as f64 / 1e9);
    store.close(FLUSH).await;
}

async fn fill(store: &Store, there: u64, rows: u64) {
    let revisions: Vec<Arc<RevisionName>> = MODELS
        .iter()
        .map(|model| {
            let labels = LABELS.iter().map(|&label| label.to_owned()).collect();
            let (model, revision) = ((*model).to_owned(), "0123456789abcdef".to_owned());
            Arc::new(RevisionName { model, revision, labels })
        })
        .collect();
    let started = SystemTime::now() - Duration::from_secs(DAYS * 86_400 - 3600);
    let step = Duration::from_secs(DAYS * 86_400 - 7200) / u32::try_from(rows).expect("fewer");
    let clock = Instant::now();
    for number in there..rows {
        let label = (number * 7 % 11 % 6) as usize;
        store.verdict(VerdictRecord {
            at: started + step * u32::try_from(number).expect("fewer"),
            request_id: format!("{:032x}", u128::from_be_bytes(mail(number / 2))).into(),
            item: (number % 2) as u32,
            mail: mail(number / 3),
            revision: Arc::clone(&revisions[(number % 4) as usize]),
            answered_by: None,
            label,
            confidence: 0.9,
            scores: [0.02; 6].into(),
            tokens: 120,
            windows: 1,
            truncated: false,
            cached: number % 3 != 0,
            queue: Duration::from_micros(100),
            infer: Duration::from_micros(4000),
            total: Duration::from_micros(4500),
        });
        if number % 40 == 0 {
            store.answer(AnswerRecord { digest: mail(number), value: [0; 30].into() });
        }
        if number % ROWS_A_FLUSH == 0 {
            assert!(store.flush(FLUSH).await, "written");
        }
    }
    assert!(store.flush(FLUSH).await, "written");
    let took = clock.elapsed().as_secs_f64();
    if rows > there {
        println!(
            "{} rows in {took:.0} s: {:.0} a second",
            rows - there,
            (rows - there) as f64 / took
        );
    }
    assert_eq!(store.reading().lost_full_rows_total, 0);
}

async fn ask(store: &Store, rows: u64) {
    let mut random = fastrand::Rng::with_seed(7);
    let page = HistoryFilter { limit: 100, ..HistoryFilter::default() };
    let now = SystemTime::now();
    for turn in 0..TIMES {
        let model = Some(MODELS[turn % 4].to_owned());
        let label = Some(LABELS[turn % 6].to_owned());
        let until = Some(now - Duration::from_secs(random.u64(..DAYS * 86_400)));
        let anyone = random.u64(..rows);
        for filter in [
            HistoryFilter { until, ..page.clone() },
            HistoryFilter { until, model: model.clone(), ..page.clone() },
            HistoryFilter { until, model, label, ..page.clone() },
            HistoryFilter { mail: Some(mail(anyone / 3)), ..page.clone() },
            HistoryFilter {
                request_id: Some(format!("{:032x}", u128::from_be_bytes(mail(anyone / 2)))),
                ..page.clone()
            },
        ] {
            assert!(!store.history(&filter).await.expect("a page").is_empty());
        }
        let days = Duration::from_secs([7, DAYS][turn % 2] * 86_400);
        store.stats((now - days, now), None).await.expect("sums");
        store.objectives_between(now - days, now).await.expect("figures");
        let of = Of::Mail(mail(anyone / 3));
        let model = MODELS[(anyone / 3 * 3 % 4) as usize];
        store.feedback(&of, model, LABELS[turn % 6]).await.expect("a verdict");
    }
    let mut answers = 0;
    store
        .newest_answers(|_| {
            answers += 1;
            answers < 250_000
        })
        .await
        .expect("answers");
}

//! The store on real databases: SQLite always, PostgreSQL where it is installed.

#[path = "../../tests/api/daemon.rs"]
mod daemon;
#[path = "../../tests/api/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postgres::Postgres;
use sqlx::{AssertSqlSafe, Row};

use crate::database::Dialect;
use crate::id::id_from;
use crate::{
    AnswerRecord, DigestBytes, HistoryFilter, ObjectivesRecord, Observe, Of, RevisionName, Store,
    StoreError, StoreKind, StoreSettings, VerdictRecord, queries, upkeep,
};

#[derive(Default)]
struct Seen {
    queries: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    dropped: AtomicU64,
}

impl Observe for Seen {
    fn query(&self, query: &'static str, _: Duration, _: bool) {
        *self.queries.lock().entry(query).or_default() += 1;
    }
    fn job(&self, _: &'static str, _: Duration, dropped_rows: u64) {
        self.dropped.fetch_add(dropped_rows, Ordering::Relaxed);
    }
}

const FLUSH: Duration = Duration::from_secs(20);

/// Where upkeep runs when a test says so.
fn settings(kind: StoreKind) -> StoreSettings {
    let upkeep_period = Duration::from_secs(3600);
    StoreSettings { upkeep_period, answers_space: "0.1/auto".into(), ..StoreSettings::new(kind) }
}

async fn started(settings: StoreSettings) -> (Store, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let store = Store::start(settings, Arc::clone(&seen) as Arc<dyn Observe>).expect("a store");
    tokio::time::timeout(FLUSH, store.opened()).await.expect("opens");
    (store, seen)
}

/// Runs a test on a fresh store of each kind.
async fn on_each_kind<T: Future<Output = ()>>(test: impl Fn(StoreSettings) -> T) {
    let folder = tempfile::tempdir().expect("temporary folder");
    // A path that would mean something else in a URL.
    let path = folder.path().join("a b%20?c#d").join("store.db");
    test(settings(StoreKind::Sqlite(path))).await;
    if let Some(postgres) = Postgres::start() {
        test(settings(StoreKind::Postgres(postgres.url()))).await;
    }
}

/// Niceness of SQLite's threads: the 19th field of `stat`, which follows the name in brackets.
fn sqlite_threads_niceness() -> Vec<i32> {
    let threads = std::fs::read_dir("/proc/self/task").expect("lists").flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
        .filter(|stat| stat.contains("(sqlx-sqlite-wor"))
        .filter_map(|stat| stat.rsplit(')').next()?.split_whitespace().nth(16)?.parse().ok())
        .collect()
}

/// What it says is wrong with it, when it says so.
async fn error_of(store: &Store) -> String {
    let deadline = std::time::Instant::now() + FLUSH;
    loop {
        if let Some(error) = store.reading().error {
            return error;
        }
        assert!(std::time::Instant::now() < deadline, "nothing seems to be wrong");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn revision(model: &str, revision: &str) -> Arc<RevisionName> {
    let labels = vec!["ham".to_owned(), "spam".to_owned()];
    Arc::new(RevisionName { model: model.to_owned(), revision: revision.to_owned(), labels })
}

fn mail(number: u32) -> DigestBytes {
    let mut digest = [7; 16];
    digest[..4].copy_from_slice(&number.to_be_bytes());
    digest
}

/// The `number`th verdict, spam if that is odd.
fn verdict(number: u32, of: &Arc<RevisionName>, at: SystemTime) -> VerdictRecord {
    VerdictRecord {
        at,
        request_id: format!("request-{}", number / 2).into(),
        item: number % 2,
        mail: mail(number),
        revision: Arc::clone(of),
        answered_by: (number.is_multiple_of(4)).then(|| "small".into()),
        label: (number % 2) as usize,
        confidence: 0.75,
        scores: [0.25, 0.75].into(),
        tokens: 100 + number,
        windows: 1,
        truncated: number.is_multiple_of(3),
        cached: number.is_multiple_of(5),
        queue: Duration::from_micros(10),
        infer: Duration::from_micros(4000),
        total: Duration::from_micros(5000),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_come_back_page_by_page() {
    on_each_kind(|settings| async move {
        let (store, seen) = started(settings).await;
        let (one, other) = (revision("spam", "r1"), revision("topic", "r1"));
        let start = SystemTime::now() - Duration::from_secs(500);
        let at = |number: u32| start + Duration::from_secs(u64::from(number));
        for number in 0..200 {
            let of = if number < 150 { &one } else { &other };
            store.verdict(verdict(number, of, at(number)));
        }
        assert!(store.flush(FLUSH).await);

        // All of it, the newest first, no row twice or left out at the borders of pages.
        let (mut filter, mut mails) =
            (HistoryFilter { limit: 33, ..HistoryFilter::default() }, vec![]);
        loop {
            let page = store.history(&filter).await.expect("a page");
            let Some(last) = page.last() else { break };
            filter.after = Some(last.id);
            mails.extend(page.into_iter().map(|item| item.mail));
        }
        assert_eq!(mails, (0..200).rev().map(mail).collect::<Vec<_>>());

        let find = |filter: HistoryFilter| {
            let store = store.clone();
            async move {
                let filter = HistoryFilter { limit: 1000, ..filter };
                store.history(&filter).await.expect("a page")
            }
        };
        let of_model = HistoryFilter { model: Some("topic".into()), ..HistoryFilter::default() };
        assert_eq!(find(of_model.clone()).await.len(), 50);
        let spam = HistoryFilter { label: Some("spam".into()), ..of_model.clone() };
        assert_eq!(find(spam).await.len(), 25);
        let between =
            HistoryFilter { since: Some(at(10)), until: Some(at(20)), ..HistoryFilter::default() };
        assert_eq!(find(between).await.len(), 10);
        let of_request =
            HistoryFilter { request_id: Some("request-3".into()), ..HistoryFilter::default() };
        assert_eq!(find(of_request).await.len(), 2);

        let of_mail = HistoryFilter { mail: Some(mail(8)), ..HistoryFilter::default() };
        let [item] = &find(of_mail).await[..] else { panic!("one") };
        assert_eq!((item.request_id.as_str(), item.item), ("request-4", 0));
        assert_eq!((item.model.as_str(), item.revision.as_str()), ("spam", "r1"));
        assert_eq!(item.labels, [("ham".to_owned(), 0.25), ("spam".to_owned(), 0.75)]);
        assert_eq!(
            (item.tokens, item.windows, item.answered_by.as_deref()),
            (108, 1, Some("small"))
        );
        assert_eq!((item.truncated, item.cached, item.truth.as_deref()), (false, false, None));
        assert_eq!(item.timings.map(|took| took.as_micros()), [10, 4000, 5000]);
        let told = at(8).duration_since(item.at).expect("not later");
        assert!(told < Duration::from_millis(1), "{told:?}");

        let reading = store.reading();
        assert_eq!((reading.up, reading.written_rows_total, reading.queued_rows), (true, 200, 0));
        if reading.kind == "sqlite" && cfg!(target_os = "linux") {
            assert!(sqlite_threads_niceness().contains(&10), "SQLite's threads give way");
        }
        assert!(reading.connections > 0);
        assert!(seen.queries.lock().contains_key("history_mail"));
        store.close(FLUSH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_those_of_the_rows_and_feedback_moves_with_the_last_word() {
    on_each_kind(|settings| async move {
        let (store, _) = started(settings).await;
        let (one, two) = (revision("spam", "r1"), revision("spam", "r2"));
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        for number in 0..100 {
            let (of, at) = if number < 60 { (&one, now - 2 * hour) } else { (&two, now) };
            store.verdict(verdict(number, of, at));
        }
        // Two batches into the same hours.
        assert!(store.flush(FLUSH).await);
        (100..120).for_each(|number| store.verdict(verdict(number, &two, now)));
        assert!(store.flush(FLUSH).await);

        let day = (now - 24 * hour, now);
        let stats = store.stats(day, Some("spam")).await.expect("sums");
        let total = |of: fn(&crate::HourSum) -> i64| stats.hours.iter().map(of).sum::<i64>();
        assert_eq!(stats.hours.len(), 4, "{:?}", stats.hours);
        assert_eq!((total(|sum| sum.mails), total(|sum| sum.cached)), (120, 24));
        assert_eq!(total(|sum| sum.tokens), (0..120).map(|number| 100 + number).sum::<i64>());
        assert_eq!(total(|sum| sum.total_us), 120 * 5000);
        let confidence: f64 = stats.hours.iter().map(|sum| sum.confidence).sum();
        assert!((confidence - 90.0).abs() < 1e-6);
        assert_eq!(store.stats(day, Some("nobody")).await.expect("sums").hours, []);
        let hour_ago = (now - hour, now);
        let late = store.stats(hour_ago, None).await.expect("sums");
        assert!(late.hours.iter().all(|sum| sum.revision == "r2"), "{late:?}");

        let said = store.feedback(&Of::Mail(mail(1)), "spam", "ham").await.expect("known");
        assert_eq!((said.predicted.as_str(), said.former), ("spam", None));
        let by_request = Of::Request("request-1".into(), 1);
        store.feedback(&by_request, "spam", "spam").await.expect("known");
        let confusion = |stats: &crate::Stats| -> Vec<_> {
            let pair =
                |sum: &crate::ConfusionSum| (sum.predicted.clone(), sum.truth.clone(), sum.mails);
            stats.confusion.iter().map(pair).collect()
        };
        let pair = |predicted: &str, truth: &str| (predicted.to_owned(), truth.to_owned(), 1);
        let stats = store.stats(day, None).await.expect("sums");
        assert_eq!(confusion(&stats), [pair("spam", "ham"), pair("spam", "spam")]);
        let again = store.feedback(&Of::Mail(mail(1)), "spam", "spam").await.expect("known");
        assert_eq!(again.former.as_deref(), Some("ham"));
        let stats = store.stats(day, None).await.expect("sums");
        assert_eq!(confusion(&stats), [("spam".to_owned(), "spam".to_owned(), 2)]);
        let of_mail = HistoryFilter { mail: Some(mail(1)), limit: 9, ..HistoryFilter::default() };
        let page = store.history(&of_mail).await.expect("a page");
        assert_eq!(page[0].truth.as_deref(), Some("spam"));

        for (of, model) in [
            (Of::Mail(mail(9999)), "spam"),
            (Of::Mail(mail(1)), "topic"),
            (Of::Request("request-1".into(), 2), "spam"),
        ] {
            let refused = store.feedback(&of, model, "ham").await;
            assert!(matches!(refused, Err(StoreError::UnknownVerdict)), "{refused:?}");
        }

        let minute = 29_000_000;
        let record =
            ObjectivesRecord { minute, requests: 7, p95_seconds: Some(0.25), ..Default::default() };
        store.objectives(record.clone());
        store.objectives(record.clone());
        assert!(store.flush(FLUSH).await);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(60 * 29_000_000);
        let kept = store.objectives_between(at, at).await.expect("rows");
        assert_eq!(kept, [record]);
        store.close(FLUSH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_outlive_the_process_newest_first_within_their_bytes() {
    on_each_kind(|settings| async move {
        let answer =
            |number: u32| AnswerRecord { digest: mail(number), value: vec![3; 100].into() };
        let (store, _) = started(settings.clone()).await;
        (0..2500).for_each(|number| store.answer(answer(number)));
        assert!(store.flush(FLUSH).await);
        // Known already: not counted twice.
        (0..2500).for_each(|number| store.answer(answer(number)));
        store.close(FLUSH).await;

        let other = StoreSettings { answers_space: "0.1/int8".into(), ..settings.clone() };
        let (store, _) = started(other).await;
        assert_eq!(store.newest_answers(|_| true).await.expect("read"), 0);
        store.close(FLUSH).await;

        let (store, _) = started(settings.clone()).await;
        let mut found = std::collections::HashSet::new();
        let taken = store.newest_answers(|record| {
            assert_eq!(record.value.len(), 100);
            found.insert(record.digest)
        });
        assert_eq!(taken.await.expect("read"), 2500);
        assert_eq!(found.len(), 2500);
        let mut few = 0;
        let enough = store.newest_answers(|_| {
            few += 1;
            few < 10
        });
        assert_eq!(enough.await.expect("read"), 9);

        store.close(FLUSH).await;

        let bounded = StoreSettings { answers_bytes_max: 100 * 300, ..settings };
        let (store, seen) = started(bounded).await;
        // Upkeep is the first thing that an open store does; here once more, to its end.
        let database = store.inner.database().expect("open");
        upkeep::tend_once(&store.inner, &database).await.expect("upkeep");
        let left = store.newest_answers(|_| true).await.expect("read");
        assert!((1..=300).contains(&left), "{left}");
        assert!(seen.dropped.load(Ordering::Relaxed) > 0);
        let rows = store.reading().rows;
        assert!(rows.contains(&("answers".to_owned(), left)), "{rows:?}");
        assert!(store.reading().bytes > 0);
        store.close(FLUSH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_or_too_much_is_dropped() {
    on_each_kind(|mut settings| async move {
        let day = Duration::from_secs(24 * 3600);
        (settings.verdicts_max, settings.verdicts_age_max) = (50, 10 * day);
        settings.sums_age_max = 30 * day;
        let (store, _) = started(settings).await;
        let (of, now) = (revision("spam", "r1"), SystemTime::now());
        for number in 0..2300 {
            let age = match number {
                0..2200 => 20 * day,
                2200..2210 => 40 * day,
                _ => day,
            };
            store.verdict(verdict(number, &of, now - age));
        }
        assert!(store.flush(FLUSH).await);
        let old = Of::Mail(mail(2201));
        store.feedback(&old, "spam", "ham").await.expect("known");
        let database = store.inner.database().expect("open");
        upkeep::tend_once(&store.inner, &database).await.expect("upkeep");
        let all = HistoryFilter { limit: 5000, ..HistoryFilter::default() };
        let left = store.history(&all).await.expect("a page");
        assert_eq!(left.len(), 50);
        assert!(left.iter().all(|item| item.id >= id_from(now - 2 * day)));
        let rows = store.reading().rows;
        assert!(rows.contains(&("verdicts".to_owned(), 50)), "{rows:?}");
        // Sums stay longer than rows, but not for ever.
        let stats = store.stats((SystemTime::UNIX_EPOCH, now), None).await.expect("sums");
        let mails: i64 = stats.hours.iter().map(|sum| sum.mails).sum();
        assert_eq!((mails, stats.confusion.len()), (2290, 0));
        store.close(FLUSH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_has_its_index() {
    on_each_kind(|settings| async move {
        let (store, _) = started(settings).await;
        let (of, now) = (revision("spam", "r1"), SystemTime::now());
        (0..3000).for_each(|number| store.verdict(verdict(number, &of, now)));
        (0..3000).for_each(|number| {
            store.answer(AnswerRecord { digest: mail(number), value: [1].into() });
        });
        assert!(store.flush(FLUSH).await);
        store.feedback(&Of::Mail(mail(1)), "spam", "ham").await.expect("known");
        let database = store.inner.database().expect("open");
        let mut connection = database.acquire().await.expect("free");
        let mut plans = Vec::new();
        for query in queries::ALL {
            let plan = match database.dialect {
                Dialect::Sqlite => {
                    let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", query.sql));
                    let rows = sqlx::query(sql).fetch_all(&mut *connection).await.expect(query.name);
                    rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>()
                }
                Dialect::Postgres => {
                    // Tables of tests are small: ask what it would do if they were not.
                    let settings = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
                                    DEALLOCATE ALL";
                    sqlx::raw_sql(settings).execute(&mut *connection).await.expect("settings");
                    let sql = AssertSqlSafe(format!("PREPARE it AS {}", query.sql));
                    sqlx::raw_sql(sql).execute(&mut *connection).await.expect(query.name);
                    let parameters = (1..10).rev().find(|n| query.sql.contains(&format!("${n}")));
                    let nulls = vec!["NULL"; parameters.unwrap_or(0)].join(", ");
                    let call = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
                    let sql = AssertSqlSafe(format!("EXPLAIN EXECUTE it{call}"));
                    let rows = sqlx::raw_sql(sql).fetch_all(&mut *connection).await.expect(query.name);
                    rows.iter().map(|row| row.get::<String, _>(0)).collect()
                }
            };
            plans.push((query.name, plan));
        }
        for (name, plan) in plans {
            let whole = |step: &String| {
                // What a query itself has put together may be read whole; so may three rows of sizes,
                // and, in its order, as much of an index as a limit says.
                let allowed = ["SCAN oldest", "SCAN (subquery", "on sizes", "SCAN sizes", "USING COVERING INDEX answers_by_time", "USING INDEX answers_by_time"];
                (step.contains("SCAN") || step.contains("Seq Scan"))
                    && !allowed.iter().any(|allowed| step.contains(allowed))
            };
            assert!(!plan.iter().any(whole), "{name}: {plan:#?}");
            let sorted = |step: &String| step.contains("TEMP B-TREE FOR ORDER") || step.contains("Sort Key: v.id");
            let small = ["hours", "confusion"].contains(&name);
            assert!(small || !plan.iter().any(sorted), "{name}: {plan:#?}");
        }
        drop(connection);
        store.close(FLUSH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_are_left_alone() {
    on_each_kind(|settings| async move {
        let (store, _) = started(settings.clone()).await;
        let database = store.inner.database().expect("open");
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     SELECT 99, 'newer', success, checksum, 0 FROM _sqlx_migrations LIMIT 1";
        let mut connection = database.acquire().await.expect("free");
        sqlx::raw_sql(newer).execute(&mut *connection).await.expect("inserts");
        drop((connection, database));
        store.close(FLUSH).await;

        let seen = Arc::new(Seen::default());
        let store = Store::start(settings, seen).expect("a store");
        let error = error_of(&store).await;
        assert!(!store.reading().up && error.contains("99"), "{error}");
        let refused = store.history(&HistoryFilter::default()).await;
        assert!(matches!(refused, Err(StoreError::Away { .. })), "{refused:?}");
    })
    .await;
}

/// What does not fit into the queue is lost at once and counted; nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_rows_and_nothing_else() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let url = format!("postgres://u:secret@{}/db", free.expect("a port"));
    let mut settings = settings(StoreKind::Postgres(url));
    settings.queue_rows_max = 100;
    let store = Store::start(settings, Arc::new(Seen::default())).expect("a store");
    let of = revision("spam", "r1");
    (0..10_000).for_each(|number| store.verdict(verdict(number, &of, SystemTime::now())));
    let reading = store.reading();
    assert!(reading.lost_full_rows_total >= 10_000 - 100 - 2048, "{reading:?}");
    assert_eq!(reading.lost_full_rows_total as usize + reading.queued_rows, 10_000);
    assert!(!store.flush(Duration::from_millis(300)).await);
    let error = error_of(&store).await;
    assert!(!error.contains("secret"), "{error}");
    store.close(Duration::from_millis(50)).await;
}

/// Killed without warning and started again: every row is there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_killed_gets_its_rows_when_it_is_back() {
    let Some(mut postgres) = Postgres::start() else { return };
    let (store, _) = started(settings(StoreKind::Postgres(postgres.url()))).await;
    let (of, now) = (revision("spam", "r1"), SystemTime::now());
    for number in 0..3000 {
        store.verdict(verdict(number, &of, now));
        match number {
            1000 => assert!(store.flush(FLUSH).await),
            1500 => postgres.kill(),
            _ => {}
        }
    }
    assert!(!store.flush(Duration::from_secs(1)).await);
    error_of(&store).await;
    assert!(!store.reading().up);
    postgres.run();
    assert!(store.flush(FLUSH).await);
    let reading = store.reading();
    assert_eq!((reading.up, reading.written_rows_total), (true, 3000), "{reading:?}");
    let stats = store.stats((now, now), None).await.expect("sums");
    assert_eq!(stats.hours.iter().map(|sum| sum.mails).sum::<i64>(), 3000);
    let all = HistoryFilter { limit: 5000, ..HistoryFilter::default() };
    assert_eq!(store.history(&all).await.expect("a page").len(), 3000);
    store.close(FLUSH).await;
}

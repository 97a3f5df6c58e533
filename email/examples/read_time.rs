//! Reads every file of the given folders; prints how many have no text and how long a mail takes.

use std::time::Instant;

use postsort_email::{ReadOptions, read_rfc822};

fn main() -> std::io::Result<()> {
    let (mut nanos, mut failures) = (Vec::new(), 0);
    for dir in std::env::args().skip(1) {
        for entry in std::fs::read_dir(dir)? {
            let raw = std::fs::read(entry?.path())?;
            let started = Instant::now();
            failures += usize::from(read_rfc822(&raw, &ReadOptions::default()).is_err());
            nanos.push(started.elapsed().as_nanos());
        }
    }
    nanos.sort_unstable();
    let at = |share: usize| nanos.get(nanos.len() * share / 100).map_or(0, |nanos| nanos / 1_000);
    println!(
        "{} mails, {failures} without text; median {} µs, p90 {} µs, p99 {} µs",
        nanos.len(),
        at(50),
        at(90),
        at(99)
    );
    Ok(())
}

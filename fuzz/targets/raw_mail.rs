//! Whole messages of any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postsort_email::{Limits, ReadOptions, read_rfc822};

mod invariants;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { text_bytes_max: 1 << 16, ..Limits::default() };
    let options = ReadOptions { limits, ..ReadOptions::default() };
    if let Ok(mail) = read_rfc822(bytes, &options) {
        invariants::check(&mail, &options);
    }
});

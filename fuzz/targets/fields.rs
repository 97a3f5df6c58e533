//! Mails taken apart by a client: subject, body, HTML; the first byte says what is there and what is
//! cut, lines of one tilde divide.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postsort_email::{Cuts, Limits, MailFields, ReadOptions, read_fields};

mod invariants;

fuzz_target!(|text: &str| {
    let Some(first) = text.bytes().next() else { return };
    let bit = |at: u8| first >> at & 1 == 1;
    let cuts = Cuts { signature: bit(0), footer: bit(1), disclaimer: bit(2), quotes: bit(3) };
    let limits = Limits { text_bytes_max: 1 << 16, ..Limits::default() };
    let options = ReadOptions { limits, cuts };
    let rest = text.get(1..).unwrap_or_default();
    let mut parts = rest.splitn(3, "\n~\n");
    let (subject, html, body) = (parts.next(), parts.next(), parts.next());
    let fields = MailFields {
        subject: subject.map(Into::into),
        html: html.map(Into::into),
        body: body.filter(|_| bit(4)).map(Into::into),
        ..MailFields::default()
    };
    if let Ok(mail) = read_fields(&fields, &options) {
        invariants::check(&mail, &options);
    }
});

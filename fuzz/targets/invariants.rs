//! What holds of every mail that was read.

use postsort_email::{Cuts, MailFields, MailText, ReadOptions, read_fields};

/// NFKC makes at most so many times as many bytes of a text (U+FDFA).
const NFKC_GROWTH: usize = 18;

pub(crate) fn check(mail: &MailText, options: &ReadOptions) {
    let bytes_max = options.limits.text_bytes_max * NFKC_GROWTH;
    assert!(mail.subject.len() <= bytes_max && mail.body.len() <= bytes_max, "bounded");
    assert!(!mail.subject.is_empty() || !mail.body.is_empty(), "some text");
    assert!(!mail.subject.contains('\n'), "a subject is one line");
    for text in [&mail.subject, &mail.body] {
        assert_eq!(text.trim(), text, "no white space at its ends");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "no control characters");
        assert!(!text.contains("\n\n") && !text.contains("  "), "white space is collapsed");
    }
    // What was read reads the same again: serving and training may pass it on as fields.
    if mail.subject.len() + mail.body.len() <= options.limits.text_bytes_max {
        let fields = MailFields {
            subject: Some(mail.subject.as_str().into()),
            body: Some(mail.body.as_str().into()),
            ..MailFields::default()
        };
        let plain = ReadOptions { cuts: Cuts::NONE, ..*options };
        let again = read_fields(&fields, &plain).expect("it has a text");
        if mail.subject.len() <= 4096 {
            assert_eq!((&again.subject, &again.body), (&mail.subject, &mail.body));
        }
    }
}

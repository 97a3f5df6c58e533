use super::{
    Attachment, EmailError, Limits, MailFields, MailText, ReadOptions, read_fields, read_rfc822,
};

fn read(raw: impl AsRef<[u8]>) -> MailText {
    let raw = raw.as_ref();
    let crlf: Vec<u8> = raw
        .iter()
        .flat_map(|&byte| if byte == b'\n' { vec![b'\r', b'\n'] } else { vec![byte] })
        .collect();
    let read = read_rfc822(raw, &ReadOptions::default()).expect("readable");
    assert_eq!(
        read_rfc822(&crlf, &ReadOptions::default()).expect("readable"),
        read,
        "CRLF reads the same"
    );
    read
}

#[test]
fn plain_mail_with_an_mbox_line() {
    let mail = read(
        "From jane@x Mon Jan  1\nFrom: Jane <jane@x.example>\nTo: joe@y.example\n\
         Subject: [ILUG] Lunch\nDate: Mon, 1 Jan 2001 00:00:00 +0000\n\nThursday at one?\n\n-- \nJane\n",
    );
    assert_eq!(mail.subject, "Lunch");
    assert_eq!(mail.body, "Thursday at one?");
    let text = mail.into_model_text();
    assert_eq!((text.text.as_str(), text.subject_bytes), ("Lunch\nThursday at one?", 5));
    assert!(!text.text.contains("example"), "no addresses");
}

#[test]
fn transfer_encodings_and_charsets() {
    let quoted = "Content-Type: text/plain; charset=iso-8859-1\n\
                  Content-Transfer-Encoding: quoted-printable\n\ncaf=E9 =\nau lait\n";
    assert_eq!(read(quoted).body, "café au lait");
    let base64 = "Content-Type: text/plain; charset=utf-8\n\
                  Content-Transfer-Encoding: base64\n\nR3LDvMOfZSBhdXMgS8O2bG4=\n";
    assert_eq!(read(base64).body, "Grüße aus Köln");
    let cyrillic = [
        b"Content-Type: text/plain; charset=windows-1251\n\n".as_slice(),
        &[0xcf, 0xf0, 0xe8, 0xe2, 0xe5, 0xf2],
    ]
    .concat();
    assert_eq!(read(cyrillic).body, "Привет");
    let chinese =
        [b"Content-Type: text/plain; charset=gb2312\n\n".as_slice(), &[0xc4, 0xe3, 0xba, 0xc3]]
            .concat();
    assert_eq!(read(chinese).body, "你好");
    let unnamed = [b"Subject: x\n\n".as_slice(), b"caf\xe9"].concat();
    assert_eq!(read(unnamed).body, "café", "no charset: Windows-1252");
}

#[test]
fn encoded_subjects() {
    assert_eq!(
        read("Subject: =?utf-8?B?R3LDvMOfZQ==?= an =?iso-8859-1?Q?K=F6ln?=\n\nx").subject,
        "Grüße an Köln"
    );
    assert_eq!(read("Subject: folded\n over lines\n\nx").subject, "folded over lines");
}

const NESTED: &str = "Subject: both\nMIME-Version: 1.0\n\
    Content-Type: multipart/mixed; boundary=outer\n\n--outer\n\
    Content-Type: multipart/alternative; boundary=inner\n\n--inner\n\
    Content-Type: text/plain\n\nplain words\n--inner\n\
    Content-Type: text/html\n\n<p>html words</p>\n--inner--\n\
    --outer\nContent-Type: application/pdf; name=a.pdf\n\
    Content-Disposition: attachment; filename=\"invoice.pdf\"\n\
    Content-Transfer-Encoding: base64\n\nJVBERi0=\n--outer--\n";

#[test]
fn nested_parts_and_attachments() {
    let mail = read(NESTED);
    assert_eq!(mail.body, "plain words");
    let pdf = Attachment {
        name: Some("invoice.pdf".to_owned()),
        media_type: "application/pdf".to_owned(),
    };
    assert_eq!(mail.attachments, [pdf]);
    let empty_plain = NESTED.replace("plain words", " ");
    assert_eq!(read(empty_plain).body, "html words");
}

#[test]
fn html_only() {
    let mail = read(
        "Subject: Offer\nContent-Type: text/html; charset=utf-8\n\n\
         <html><head><style>p{}</style></head><body><p>Buy <a href=\"https://shop.example/x\">now</a></p>\
         <p style=\"display:none\">hidden</p></body></html>\n",
    );
    assert_eq!(mail.body, "Buy now (shop.example)");
}

#[test]
fn damaged_parts_are_read() {
    let unclosed = "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\
        Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: base64\n\n\
        PHA+QnV5IGNhZuk8L3A+\n";
    assert_eq!(read(unclosed).body, "Buy café");
    let with_footer = "Subject: x\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n\
        QnV5IG5vdw==\n\n_____\nA mailing list\n";
    assert_eq!(read(with_footer).body, "Buy now");
    let truncated =
        "Subject: x\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\nQnV5IG5vd";
    assert_eq!(read(truncated).body, "Buy no");
    let no_charset = "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n\
        <meta content=3D'text/html; charset=3Dwindows-1251'><p>=CF=F0=E8=E2=E5=F2</p>";
    assert_eq!(read(no_charset).body, "Привет");
    let no_delimiter = "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\njust words here";
    assert_eq!(read(no_delimiter).body, "just words here");
    let stub = NESTED
        .replace("plain words", "Needs HTML.")
        .replace("html words", &"the real mail is here ".repeat(10));
    assert!(read(stub).body.starts_with("the real mail"));
}

#[test]
fn a_mail_that_is_nothing_but_a_file_is_read() {
    let odd_type = "Subject: s\nContent-Type: TEXT/PLAIN charset=US-ASCII\n\nBuy now";
    assert_eq!(read(odd_type).body, "Buy now");
    let page = "Subject: s\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n \n\
                --b\nContent-Type: application/octet-stream; name=\"New.HTM\"\n\
                Content-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"New.HTM\"\n\n\
                PHA+T2ZmZXI8L3A+\n--b--\n";
    let mail = read(page);
    assert_eq!(mail.body, "Offer");
    assert_eq!(mail.attachments.len(), 1);
    let beside_text = page.replace("\n\n \n", "\n\nSee the page.\n");
    assert_eq!(read(beside_text).body, "See the page.");
    let program = page.replace("HTM", "EXE");
    assert_eq!(read(program).body, "");
}

#[test]
fn charsets_that_nobody_knows() {
    let mail = |kind: &str, body: &[u8]| {
        let head = format!("Content-Type: {kind}\nContent-Transfer-Encoding: 8bit\n\n");
        read([head.as_bytes(), body].concat()).body
    };
    assert_eq!(mail("text/plain; charset=DEFAULT_CHARSET", b"caf\xe9"), "café");
    let page = b"<meta charset=big5><p>\xa4\xa4\xa4\xe5";
    assert_eq!(mail("text/html; charset=CHINESEBIG5", page), "中文");
    assert_eq!(mail("text/plain; charset=gb2312", b"\xd6\xd0\x87\xd6"), "中囍");
}

#[test]
fn a_bare_forward_reads_what_it_forwards() {
    let mail = read(
        "Subject: Fwd\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\
         Content-Type: message/rfc822\n\nSubject: inner\n\nforwarded words\n--b--\n",
    );
    assert!(mail.body.contains("forwarded words"), "{mail:?}");
}

#[test]
fn invisible_characters_are_counted() {
    let mail =
        read("Subject: V\u{200b}iagra\nContent-Type: text/plain; charset=utf-8\n\nb\u{200b}uy");
    assert_eq!((mail.body.as_str(), mail.zero_width_removed > 0), ("buy", true));
}

#[test]
fn parts_are_cut_where_that_is_chosen() {
    let raw = "Subject: [ILUG] Lunch\n\n> When?\nAt one.\n\n-- \nJane\n";
    let read = |cuts: &str| {
        let options = ReadOptions { cuts: cuts.parse().expect("known"), ..ReadOptions::default() };
        let mail = read_rfc822(raw.as_bytes(), &options).expect("readable");
        (mail.subject, mail.body)
    };
    let of = |subject: &str, body: &str| (subject.to_owned(), body.to_owned());
    assert_eq!(read("signature,footer"), of("Lunch", "> When?\nAt one."));
    assert_eq!(read("quotes,footer"), of("Lunch", "At one.\n--\nJane"));
    assert_eq!(read("none"), of("[ILUG] Lunch", "> When?\nAt one.\n--\nJane"));
}

#[test]
fn fields() {
    let limits = Limits { text_bytes_max: 100, ..Limits::default() };
    let fields = |body: Option<&'static str>, html: Option<&'static str>| MailFields {
        subject: Some("Hi".into()),
        body: body.map(Into::into),
        html: html.map(Into::into),
        ..MailFields::default()
    };
    let body =
        |fields: &MailFields<'_>| read_fields(fields, &limits.into()).expect("readable").body;
    assert_eq!(body(&fields(Some("plain\0"), Some("<b>html</b>"))), "plain");
    assert_eq!(body(&fields(Some("  "), Some("<b>html</b>"))), "html");
    assert_eq!(body(&fields(None, None)), "");
    let empty = MailFields { body: Some(" \n".into()), ..MailFields::default() };
    assert_eq!(read_fields(&empty, &limits.into()), Err(EmailError::Empty));
    let long = MailFields { body: Some("x".repeat(101).into()), ..MailFields::default() };
    let error = EmailError::TooLarge { bytes: 101, bytes_max: 100 };
    assert_eq!(read_fields(&long, &limits.into()), Err(error));
}

#[test]
fn bombs_are_refused() {
    let limits = Limits { bytes_max: 1 << 20, depth_max: 8, parts_max: 50, ..Limits::default() };
    let read = |raw: &str| read_rfc822(raw.as_bytes(), &limits.into());
    let large = "x".repeat((1 << 20) + 1);
    assert!(matches!(read(&large), Err(EmailError::TooLarge { .. })));
    let many = "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n".to_owned()
        + &"--b\nContent-Type: text/plain\n\nx\n".repeat(200);
    assert!(matches!(read(&many), Err(EmailError::TooManyParts { .. })));
    let nested = "Content-Type: message/rfc822\n\n";
    assert_eq!(read(&nested.repeat(100)), Err(EmailError::TooDeep { depth_max: 8 }));
    assert!(matches!(read(&nested.repeat(30_000)), Err(EmailError::TooManyParts { .. })));
    let many = Limits { parts_max: 10_000, ..limits };
    let outcome = read_rfc822(nested.repeat(30_000).as_bytes(), &many.into());
    assert_eq!(outcome, Err(EmailError::TooDeep { depth_max: 8 }), "dropping it needs no stack");
    let deep: String = (0..100)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n"))
        .collect();
    let outcome = read(&deep);
    assert!(matches!(outcome, Err(EmailError::TooDeep { .. } | EmailError::Empty)), "{outcome:?}");
}

#[test]
fn rubbish_never_panics() {
    assert_eq!(read_rfc822(b"", &ReadOptions::default()), Err(EmailError::Empty));
    assert_eq!(read_rfc822(b" \r\n\r\n ", &ReadOptions::default()), Err(EmailError::Empty));
    assert!(read_rfc822(b"just words", &ReadOptions::default()).is_ok(), "no header at all");
    let mut state = 1_u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    // Random bytes, and real structure with random damage.
    for round in 0..4_000 {
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..random() % 400).map(|_| random() as u8).collect()
        } else {
            let mut bytes = NESTED.as_bytes().to_vec();
            for _ in 0..1 + random() % 20 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            bytes.truncate(random() % (bytes.len() + 1));
            bytes
        };
        if let Ok(mail) = read_rfc822(&bytes, &ReadOptions::default()) {
            assert!(!mail.subject.is_empty() || !mail.body.is_empty());
        }
    }
}

//! What the benches work on.

use postsort_cache::Weigh;

/// A multipart mail of everyday size.
pub(crate) const MAIL: &str = "From: anna@x.example\r\nTo: tom@y.example\r\nSubject: [team] Re: Q3 numbers\r\n\
    MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
    Hi Tom,\r\n\r\nplease find the figures for the third quarter attached. The total is =E2=82=AC 1,204.50.\r\n\
    Could you check the second sheet before Thursday?\r\n\r\n-- \r\nAnna\r\n--b\r\n\
    Content-Type: text/html\r\n\r\n<p>Hi <b>Tom</b>, please find the figures attached.</p>\r\n--b--\r\n";

/// What the result cache keeps here.
pub(crate) struct Logits(pub(crate) Box<[f32]>);

impl Weigh for Logits {
    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

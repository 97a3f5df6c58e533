//! A mail, raw or in fields, to subject and body.

use std::borrow::Cow;

use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::Deserialize;

use crate::boilerplate::strip_list_tags;
use crate::cuts::{Cuts, cut};
use crate::decode::{is_damaged_text, visible_file, visible_part};
use crate::html::visible_text;
use crate::normalize::normalize;
use crate::outline::{check_outline, check_shape, take_apart};

/// Bounds against mail made to cost time or memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest raw message.
    pub bytes_max: usize,
    /// Deepest nesting of multiparts and attached messages.
    pub depth_max: usize,
    /// Most MIME parts, those of attached messages included.
    pub parts_max: usize,
    /// Longest text; what is beyond is not read.
    pub text_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 32 << 20, depth_max: 32, parts_max: 1_000, text_bytes_max: 1 << 20 }
    }
}

/// How mail is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Bounds.
    pub limits: Limits,
    /// What is cut from bodies.
    pub cuts: Cuts,
}

impl From<Limits> for ReadOptions {
    fn from(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}

/// A mail whose fields the client has taken apart.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailFields<'a> {
    /// Decoded subject.
    #[serde(borrow)]
    pub subject: Option<Cow<'a, str>>,
    /// Sender; not part of the text.
    #[serde(borrow)]
    pub from: Option<Cow<'a, str>>,
    /// Recipients; not part of the text.
    #[serde(borrow)]
    pub to: Option<Cow<'a, str>>,
    /// Plain text.
    #[serde(borrow)]
    pub body: Option<Cow<'a, str>>,
    /// HTML; read when there is no plain text.
    #[serde(borrow)]
    pub html: Option<Cow<'a, str>>,
}

/// What a mail says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailText {
    /// Subject, one line, without list tags.
    pub subject: String,
    /// Body, single line breaks, without signature and list footer.
    pub body: String,
    /// Attached files.
    pub attachments: Vec<Attachment>,
    /// Invisible characters that were taken out; many are a sign of disguise.
    pub zero_width_removed: usize,
    /// Letters of other scripts that stood for Latin ones within a word, and were replaced.
    pub lookalikes_replaced: usize,
}

/// An attached file, by name and type only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// File name, if it has one.
    pub name: Option<String>,
    /// MIME type, `application/octet-stream` if it has none.
    pub media_type: String,
}

/// The text that a model reads: subject, a line break, body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelText {
    /// All of it.
    pub text: String,
    /// `text[..subject_bytes]` is the subject.
    pub subject_bytes: usize,
}

/// Why a mail cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// Over [`Limits::bytes_max`], or a field over [`Limits::text_bytes_max`].
    #[error("mail has {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Over [`Limits::parts_max`].
    #[error("mail has {parts} parts, the limit is {parts_max}")]
    TooManyParts {
        /// Parts found.
        parts: usize,
        /// The limit.
        parts_max: usize,
    },
    /// Over [`Limits::depth_max`].
    #[error("mail is nested deeper than {depth_max} levels")]
    TooDeep {
        /// The limit.
        depth_max: usize,
    },
    /// Neither a subject nor a body.
    #[error("mail has no text: neither a subject nor a body")]
    Empty,
}

/// Reads a whole message (RFC 5322 with MIME). An mbox `From ` line in front is skipped; bytes
/// that are no message at all are read as a body.
///
/// # Errors
/// See [`EmailError`]. Broken MIME is read as far as it goes.
pub fn read_rfc822(raw: &[u8], options: &ReadOptions) -> Result<MailText, EmailError> {
    let limits = &options.limits;
    if raw.len() > limits.bytes_max {
        return Err(EmailError::TooLarge { bytes: raw.len(), bytes_max: limits.bytes_max });
    }
    let raw = skip_mbox_line(raw);
    check_outline(raw, limits)?;
    let Some(message) = MessageParser::default().parse(raw) else {
        return finish("", &String::from_utf8_lossy(raw), Vec::new(), options);
    };
    if let Err(error) = check_shape(&message, limits) {
        take_apart(message);
        return Err(error);
    }
    let subject = message.subject().unwrap_or_default();
    let mut body = body_text(&message, limits);
    if body.trim().is_empty() {
        body = attached_text(&message, limits);
    }
    if body.trim().is_empty() {
        body = file_text(&message, limits);
    }
    if body.trim().is_empty() {
        body = undelimited_text(&message, raw, subject);
    }
    finish(subject, &body, attachments(&message), options)
}

/// Reads a mail in fields.
///
/// # Errors
/// [`EmailError::Empty`]; [`EmailError::TooLarge`] for a field over the text limit.
pub fn read_fields(fields: &MailFields<'_>, options: &ReadOptions) -> Result<MailText, EmailError> {
    let limits = &options.limits;
    for field in [&fields.subject, &fields.body, &fields.html].into_iter().flatten() {
        if field.len() > limits.text_bytes_max {
            let (bytes, bytes_max) = (field.len(), limits.text_bytes_max);
            return Err(EmailError::TooLarge { bytes, bytes_max });
        }
    }
    let subject = fields.subject.as_deref().unwrap_or_default();
    let plain = fields.body.as_deref().filter(|body| !body.trim().is_empty());
    match (plain, fields.html.as_deref()) {
        (None, Some(html)) => {
            finish(subject, &visible_text(html, limits.text_bytes_max), Vec::new(), options)
        }
        (plain, _) => finish(subject, plain.unwrap_or_default(), Vec::new(), options),
    }
}

impl MailText {
    /// Subject and body as one text.
    #[must_use]
    pub fn into_model_text(self) -> ModelText {
        let subject_bytes = self.subject.len();
        let text = match (self.subject.is_empty(), self.body.is_empty()) {
            (true, _) => self.body,
            (false, true) => self.subject,
            (false, false) => {
                let mut text = self.subject;
                text.reserve(1 + self.body.len());
                text.push('\n');
                text.push_str(&self.body);
                text
            }
        };
        ModelText { text, subject_bytes }
    }
}

fn finish(
    subject: &str,
    body: &str,
    attachments: Vec<Attachment>,
    ReadOptions { limits, cuts }: &ReadOptions,
) -> Result<MailText, EmailError> {
    let (subject, in_subject) =
        normalize(head(subject, limits.text_bytes_max.min(SUBJECT_BYTES_MAX)));
    let (body, in_body) = normalize(head(body, limits.text_bytes_max));
    let subject = subject.replace('\n', " ");
    let subject = if cuts.footer { strip_list_tags(&subject) } else { subject };
    let body = cut(&body, *cuts);
    if subject.is_empty() && body.is_empty() {
        return Err(EmailError::Empty);
    }
    Ok(MailText {
        subject,
        body,
        attachments,
        zero_width_removed: in_subject.invisible + in_body.invisible,
        lookalikes_replaced: in_subject.lookalikes + in_body.lookalikes,
    })
}

/// Longest subject that is read: more than any mail program shows.
const SUBJECT_BYTES_MAX: usize = 4_096;

/// The head of a text, cut between characters.
fn head(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn skip_mbox_line(raw: &[u8]) -> &[u8] {
    if !raw.starts_with(b"From ") {
        return raw;
    }
    raw.iter().position(|&byte| byte == b'\n').map_or(raw, |end| &raw[end + 1..])
}

fn body_text<'a>(message: &'a Message<'_>, limits: &Limits) -> Cow<'a, str> {
    let body = joined(message, message.text_body.iter().copied(), limits);
    if body.trim().len() > STUB_BYTES_MAX {
        return body;
    }
    // An empty plain part, or "your program cannot show this", beside the real, HTML one; or text
    // that the parser takes for an attachment because it could not decode it.
    let html = message.html_body.iter().copied().filter(|id| !message.text_body.contains(id));
    let damaged = message
        .attachments
        .iter()
        .copied()
        .filter(|&id| message.parts.get(id as usize).is_some_and(is_damaged_text));
    let other = joined(message, html.chain(damaged).take(PARTS_JOINED_MAX), limits);
    if other.len() > 4 * body.trim().len() { other } else { body }
}

fn joined<'a>(
    message: &'a Message<'_>,
    ids: impl Iterator<Item = u32>,
    limits: &Limits,
) -> Cow<'a, str> {
    let mut joined: Cow<'a, str> = Cow::Borrowed("");
    for part in ids.filter_map(|id| message.parts.get(id as usize)) {
        let Some(text) = visible_part(message, part, limits.text_bytes_max) else { continue };
        if joined.is_empty() {
            joined = text;
        } else if joined.len() < limits.text_bytes_max {
            let joined = joined.to_mut();
            joined.push('\n');
            joined.push_str(&text);
        }
    }
    joined
}

/// Longest plain part that a much longer HTML one replaces.
const STUB_BYTES_MAX: usize = 100;
/// Most such parts that are read as one body.
const PARTS_JOINED_MAX: usize = 16;

/// The text of the first attached message that has one: a bare forward.
fn attached_text<'a>(message: &'a Message<'_>, limits: &Limits) -> Cow<'a, str> {
    let attached = message.parts.iter().filter_map(|part| match &part.body {
        PartType::Message(attached) => Some(attached),
        _ => None,
    });
    for attached in attached {
        let body = body_text(attached, limits);
        if !body.trim().is_empty() {
            let subject = attached.subject().unwrap_or_default();
            return Cow::Owned(format!("{subject}\n{body}"));
        }
    }
    Cow::Borrowed("")
}

/// The text of the first attached file that has one: a mail that is nothing but a page sent as a
/// file, or whose type the parser does not know.
fn file_text<'a>(message: &'a Message<'_>, limits: &Limits) -> Cow<'a, str> {
    let ids = message.attachments.iter().take(PARTS_JOINED_MAX);
    ids.filter_map(|&id| message.parts.get(id as usize))
        .filter_map(|part| visible_file(message, part, limits.text_bytes_max))
        .find(|text| !text.trim().is_empty())
        .unwrap_or_default()
}

/// The text of what is no message or of a multipart without the delimiters that it promised.
fn undelimited_text<'a>(message: &Message<'_>, raw: &'a [u8], subject: &str) -> Cow<'a, str> {
    let first_line = raw.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if subject.is_empty() && !first_line.contains(&b':') {
        return String::from_utf8_lossy(raw);
    }
    match message.parts.as_slice() {
        [root] if root.content_type().is_some_and(|kind| kind.ctype() == "multipart") => {
            String::from_utf8_lossy(raw.get(root.offset_body as usize..).unwrap_or_default())
        }
        _ => Cow::Borrowed(""),
    }
}

fn attachments(message: &Message<'_>) -> Vec<Attachment> {
    let describe = |part: &MessagePart<'_>| {
        let media_type = part.content_type().map_or_else(
            || "application/octet-stream".to_owned(),
            |kind| match kind.subtype() {
                Some(subtype) => format!("{}/{subtype}", kind.ctype()).to_ascii_lowercase(),
                None => kind.ctype().to_ascii_lowercase(),
            },
        );
        Attachment { name: part.attachment_name().map(str::to_owned), media_type }
    };
    let ids = message.attachments.iter();
    ids.filter_map(|&id| message.parts.get(id as usize)).map(describe).collect()
}

#[cfg(test)]
#[path = "mail_tests.rs"]
mod tests;

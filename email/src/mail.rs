//! A mail, raw or in fields, to subject and body.

use std::borrow::Cow;

use mail_parser::{Encoding, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::Deserialize;

use crate::boilerplate::{cut_footer, strip_list_tags};
use crate::html::visible_text;
use crate::normalize::normalize;

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
pub fn read_rfc822(raw: &[u8], limits: &Limits) -> Result<MailText, EmailError> {
    if raw.len() > limits.bytes_max {
        return Err(EmailError::TooLarge { bytes: raw.len(), bytes_max: limits.bytes_max });
    }
    let raw = skip_mbox_line(raw);
    let Some(message) = MessageParser::default().parse(raw) else {
        return finish("", &String::from_utf8_lossy(raw), Vec::new(), limits);
    };
    check_shape(&message, limits)?;
    let subject = message.subject().unwrap_or_default();
    let mut body = body_text(&message, limits);
    if body.trim().is_empty() {
        body = attached_text(&message, limits);
    }
    let first_line = raw.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if body.trim().is_empty() && subject.is_empty() && !first_line.contains(&b':') {
        // No header in front: not a message, but perhaps a bare body.
        body = Cow::Owned(String::from_utf8_lossy(raw).into_owned());
    }
    finish(subject, &body, attachments(&message), limits)
}

/// Reads a mail in fields.
///
/// # Errors
/// [`EmailError::Empty`]; [`EmailError::TooLarge`] for a field over the text limit.
pub fn read_fields(fields: &MailFields<'_>, limits: &Limits) -> Result<MailText, EmailError> {
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
            finish(subject, &visible_text(html, limits.text_bytes_max), Vec::new(), limits)
        }
        (plain, _) => finish(subject, plain.unwrap_or_default(), Vec::new(), limits),
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
    limits: &Limits,
) -> Result<MailText, EmailError> {
    let (subject, in_subject) = normalize(head(subject, limits.text_bytes_max));
    let (body, in_body) = normalize(head(body, limits.text_bytes_max));
    let subject = strip_list_tags(&subject.replace('\n', " "));
    let body = cut_footer(&body).to_owned();
    if subject.is_empty() && body.is_empty() {
        return Err(EmailError::Empty);
    }
    Ok(MailText { subject, body, attachments, zero_width_removed: in_subject + in_body })
}

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

/// Breadth first, without recursion: depth is what an attacker chooses.
fn check_shape(message: &Message<'_>, limits: &Limits) -> Result<(), EmailError> {
    let (depth_max, parts_max) = (limits.depth_max, limits.parts_max);
    let mut parts = 0;
    let mut open: Vec<(&Message<'_>, usize, usize)> = vec![(message, 0, 1)];
    while let Some((message, part, depth)) = open.pop() {
        if depth > depth_max {
            return Err(EmailError::TooDeep { depth_max });
        }
        parts += 1;
        if parts > parts_max {
            let parts = parts.max(message.parts.len());
            return Err(EmailError::TooManyParts { parts, parts_max });
        }
        match message.parts.get(part).map(|part| &part.body) {
            Some(PartType::Multipart(children)) => {
                open.extend(children.iter().map(|&child| (message, child as usize, depth + 1)));
            }
            Some(PartType::Message(attached)) => open.push((attached, 0, depth + 1)),
            _ => {}
        }
    }
    Ok(())
}

fn body_text<'a>(message: &'a Message<'_>, limits: &Limits) -> Cow<'a, str> {
    let mut body: Cow<'a, str> = Cow::Borrowed("");
    for &id in &message.text_body {
        let Some(part) = message.parts.get(id as usize) else { continue };
        let text: Cow<'a, str> = match &part.body {
            PartType::Text(text) => plain_text(message, part, text),
            PartType::Html(html) => Cow::Owned(visible_text(html, limits.text_bytes_max)),
            _ => continue,
        };
        if body.is_empty() {
            body = text;
        } else if body.len() < limits.text_bytes_max {
            let body = body.to_mut();
            body.push('\n');
            body.push_str(&text);
        }
    }
    if !body.trim().is_empty() {
        return body;
    }
    // An empty plain part beside the real, HTML one.
    let html = message.html_body.iter().filter_map(|&id| message.parts.get(id as usize));
    let html = html.filter_map(|part| match &part.body {
        PartType::Html(html) => Some(visible_text(html, limits.text_bytes_max)),
        _ => None,
    });
    Cow::Owned(html.collect::<Vec<_>>().join("\n"))
}

/// Text that came without a charset and is not UTF-8 is Windows-1252, as the WHATWG Encoding
/// Standard and mail programs have it.
fn plain_text<'a>(
    message: &'a Message<'_>,
    part: &'a MessagePart<'_>,
    text: &'a str,
) -> Cow<'a, str> {
    let unnamed = part.content_type().is_none_or(|kind| {
        kind.attribute("charset").is_none_or(|name| name.eq_ignore_ascii_case("us-ascii"))
    });
    if unnamed && part.encoding == Encoding::None && text.contains('\u{fffd}') {
        let (start, end) = (part.offset_body as usize, part.offset_end as usize);
        if let Some(bytes) = message.raw_message.get(start..end) {
            return encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned().into();
        }
    }
    Cow::Borrowed(text)
}

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

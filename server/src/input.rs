//! What a client sends, and the text that a model reads of it.

use std::borrow::Cow;

use base64::Engine as _;
use postsort_cache::Digest;
use postsort_email::{
    EmailError, Limits, MailFields, ModelText, ReadOptions, read_fields, read_rfc822,
};
use serde::Deserialize;

use crate::config::RequestLimits;
use crate::error::Error;

/// One thing to classify.
#[derive(Clone, Debug)]
pub enum Input {
    /// Text, read by the model as it is.
    Text(String),
    /// Two texts, as for entailment.
    Pair(String, String),
    /// A mail whose fields the client has taken apart.
    Fields(Box<MailFields<'static>>),
    /// A whole message, RFC 5322.
    Raw(Vec<u8>),
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readable {
    /// One text; the subject, if there is one, is its head.
    One(ModelText),
    /// Two texts.
    Pair(String, String),
}

/// A mail object: parsed fields, or the whole message in `raw`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct MailObject {
    subject: Option<String>,
    from: Option<String>,
    to: Option<String>,
    body: Option<String>,
    html: Option<String>,
    /// Base64 of an RFC 5322 message.
    raw: Option<String>,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Input;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a mail object (subject, from, to, body, html; or raw)")
            }
            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Input, E> {
                Ok(Input::Text(text))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Input, A::Error> {
                let object =
                    MailObject::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                object.into_input().map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl MailObject {
    fn into_input(self) -> Result<Input, &'static str> {
        let Some(raw) = self.raw else {
            let own = |text: Option<String>| text.map(Cow::Owned);
            return Ok(Input::Fields(Box::new(MailFields {
                subject: own(self.subject),
                from: own(self.from),
                to: own(self.to),
                body: own(self.body),
                html: own(self.html),
            })));
        };
        if self.subject.is_some() || self.body.is_some() || self.html.is_some() {
            return Err("either raw or the fields, expected not both");
        }
        let standard = base64::engine::general_purpose::STANDARD;
        // Mail tools wrap base64 into lines.
        let compact: Vec<u8> = raw.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        standard.decode(compact).map(Input::Raw).map_err(|_| "bad base64, expected base64 in raw")
    }
}

impl Input {
    /// The text that the model reads. `at` is the position in the request, for errors.
    ///
    /// # Errors
    /// [`Error::Unusable`] without any text; [`Error::TooLarge`] over the limit.
    pub fn read(self, at: usize, limits: &RequestLimits) -> Result<Readable, Error> {
        let bounds = Limits { text_bytes_max: limits.text_bytes_max, ..Limits::default() };
        let options = ReadOptions { limits: bounds, cuts: limits.cuts };
        match self {
            Self::Text(text) => {
                check_text(&text, at, limits.text_bytes_max)?;
                Ok(Readable::One(ModelText { text, subject_bytes: 0 }))
            }
            Self::Pair(first, second) => {
                check_text(&first, at, limits.text_bytes_max)?;
                check_text(&second, at, limits.text_bytes_max)?;
                Ok(Readable::Pair(first, second))
            }
            Self::Fields(fields) => read_fields(&fields, &options)
                .map(|mail| Readable::One(mail.into_model_text()))
                .map_err(|error| mail_error(error, at)),
            Self::Raw(raw) => read_rfc822(&raw, &options)
                .map(|mail| Readable::One(mail.into_model_text()))
                .map_err(|error| mail_error(error, at)),
        }
    }

    /// Bytes to be read, for deciding where to read them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let len = |text: &Option<Cow<'_, str>>| text.as_ref().map_or(0, |text| text.len());
        match self {
            Self::Text(text) => text.len(),
            Self::Pair(first, second) => first.len() + second.len(),
            Self::Fields(fields) => len(&fields.subject) + len(&fields.body) + len(&fields.html),
            Self::Raw(raw) => raw.len(),
        }
    }
}

impl Readable {
    /// Of all that models read of it, and of nothing else: duplicates have the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::One(text) => {
                Digest::of(&[&text.subject_bytes.to_le_bytes(), text.text.as_bytes()])
            }
            Self::Pair(first, second) => {
                Digest::of(&[b"pair", first.as_bytes(), second.as_bytes()])
            }
        }
    }

    /// Bytes to be tokenised.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::One(text) => text.text.len(),
            Self::Pair(first, second) => first.len() + second.len(),
        }
    }
}

/// A plain text reaches the model untouched, so it must be one: a NUL shows that binary data was
/// sent. (Mail has its own cleaning, and loses NULs there.)
fn check_text(text: &str, at: usize, text_bytes_max: usize) -> Result<(), Error> {
    if text.len() > text_bytes_max {
        let (what, size) = (format!("inputs[{at}]"), text.len());
        return Err(Error::TooLarge { what, size, size_max: text_bytes_max, unit: "bytes" });
    }
    let unusable = |reason: String| Err(Error::Unusable { index: at, reason });
    if text.trim().is_empty() {
        return unusable("the text is empty".to_owned());
    }
    match text.bytes().position(|byte| byte == 0) {
        Some(offset) => unusable(format!("the text has a NUL character at byte {offset}")),
        None => Ok(()),
    }
}

fn mail_error(error: EmailError, at: usize) -> Error {
    match error {
        EmailError::TooLarge { bytes, bytes_max } => Error::TooLarge {
            what: format!("inputs[{at}]"),
            size: bytes,
            size_max: bytes_max,
            unit: "bytes",
        },
        other => Error::Unusable { index: at, reason: other.to_string() },
    }
}

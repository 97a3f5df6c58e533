//! The text of one MIME part, also where its sender encoded it badly.

use std::borrow::Cow;

use encoding_rs::{Encoding as Charset, WINDOWS_1252};
use mail_parser::{HeaderName, HeaderValue, Message, MessagePart, MimeHeaders, PartType};

use crate::html::visible_text;

/// What a reader sees of a part; `None` for what is no text.
///
/// Mail programs show text whose transfer encoding is damaged, cut off or followed by a list's
/// footer, and text that names no charset, one that nobody knows, or a smaller one than it uses.
/// The parser gives up on those, so they are decoded here.
pub(crate) fn visible_part<'a>(
    message: &'a Message<'_>,
    part: &'a MessagePart<'_>,
    text_bytes_max: usize,
) -> Option<Cow<'a, str>> {
    let (PartType::Text(parsed) | PartType::Html(parsed)) = &part.body else { return None };
    let kind = kind(part)?;
    let text = if part.is_encoding_problem || parsed.contains('\u{fffd}') {
        let (start, end) = (part.offset_body as usize, part.offset_end as usize);
        message.raw_message.get(start..end).map(|raw| Cow::Owned(decode(part, raw, kind)))
    } else {
        None
    };
    Some(shown(text.unwrap_or(Cow::Borrowed(&**parsed)), kind, text_bytes_max))
}

fn shown(text: Cow<'_, str>, kind: Kind, text_bytes_max: usize) -> Cow<'_, str> {
    match kind {
        Kind::Plain => text,
        Kind::Html => Cow::Owned(visible_text(&text, text_bytes_max)),
    }
}

/// What a reader sees of an attached file that holds text, by its type or else by its name.
pub(crate) fn visible_file<'a>(
    message: &'a Message<'_>,
    part: &'a MessagePart<'_>,
    text_bytes_max: usize,
) -> Option<Cow<'a, str>> {
    let PartType::Binary(bytes) = &part.body else {
        return visible_part(message, part, text_bytes_max);
    };
    let (_, extension) = part.attachment_name()?.rsplit_once('.')?;
    let kind = match extension.to_ascii_lowercase().as_str() {
        "htm" | "html" => Kind::Html,
        "txt" => Kind::Plain,
        _ => return None,
    };
    Some(shown(Cow::Owned(text_of(bytes, None, kind)), kind, text_bytes_max))
}

/// Whether the parser gave up on the encoding of a part that holds text.
pub(crate) fn is_damaged_text(part: &MessagePart<'_>) -> bool {
    part.is_encoding_problem && kind(part).is_some()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Html,
}

fn kind(part: &MessagePart<'_>) -> Option<Kind> {
    let Some(content_type) = part.content_type() else { return Some(Kind::Plain) };
    match (content_type.ctype(), content_type.subtype()) {
        ("text", Some("html")) => Some(Kind::Html),
        // A multipart that is text here has none of the delimiters that it promised.
        ("text" | "multipart", _) => Some(Kind::Plain),
        _ => None,
    }
}

/// The charset that a part names, unless it names the one that every text begins with.
fn charset<'a>(part: &'a MessagePart<'_>) -> Option<&'a str> {
    let name = part.content_type()?.attribute("charset")?;
    (!name.eq_ignore_ascii_case("us-ascii")).then_some(name)
}

fn decode(part: &MessagePart<'_>, raw: &[u8], kind: Kind) -> String {
    let encoding =
        part.headers.iter().rev().find_map(|header| match (&header.name, &header.value) {
            (HeaderName::ContentTransferEncoding, HeaderValue::Text(name)) => Some(&**name),
            _ => None,
        });
    let bytes = match encoding {
        Some(name) if name.eq_ignore_ascii_case("base64") => Cow::Owned(base64(raw)),
        Some(name) if name.eq_ignore_ascii_case("quoted-printable") => {
            Cow::Owned(quoted_printable(raw))
        }
        _ => Cow::Borrowed(raw),
    };
    text_of(&bytes, charset(part).map(str::as_bytes).and_then(Charset::for_label), kind)
}

fn text_of(bytes: &[u8], named: Option<&'static Charset>, kind: Kind) -> String {
    let charset = named.or_else(|| if kind == Kind::Html { meta_charset(bytes) } else { None });
    match (charset, std::str::from_utf8(bytes)) {
        (Some(charset), _) => charset.decode(bytes).0.into_owned(),
        (None, Ok(text)) => text.to_owned(),
        // As mail programs and the WHATWG Encoding Standard have it.
        (None, Err(_)) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// The charset that a page names in its head.
fn meta_charset(html: &[u8]) -> Option<&'static Charset> {
    const SIGN: &[u8] = b"charset=";
    let head = &html[..html.len().min(1_024)];
    let at = head.windows(SIGN.len()).position(|window| window.eq_ignore_ascii_case(SIGN))?;
    let label = head[at + SIGN.len()..].trim_ascii_start();
    let label = label.strip_prefix(b"\"").or(label.strip_prefix(b"'")).unwrap_or(label);
    let end = label.iter().position(|&b| !b.is_ascii_alphanumeric() && !b"-_:".contains(&b));
    Charset::for_label(&label[..end.unwrap_or(label.len())])
}

/// Base64 with foreign characters skipped (RFC 2045, §6.8), up to the padding, a delimiter, or a
/// footer behind an empty line.
fn base64(raw: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(raw.len() / 4 * 3);
    let (mut chunk, mut bits) = (0_u32, 0);
    let mut after_gap = false;
    for line in raw.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
        let is_clean = line.iter().all(|&byte| sextet(byte).is_some() || byte == b'=');
        if line.starts_with(b"--") || after_gap && !is_clean {
            break;
        }
        after_gap = line.is_empty() && !bytes.is_empty();
        for value in line.iter().take_while(|&&byte| byte != b'=').filter_map(|&byte| sextet(byte))
        {
            chunk = chunk << 6 | u32::from(value);
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                bytes.push((chunk >> bits) as u8);
                chunk &= (1 << bits) - 1;
            }
        }
        if line.contains(&b'=') {
            break;
        }
    }
    bytes
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Quoted-printable with wrong escapes kept as they are (RFC 2045, §6.7).
fn quoted_printable(raw: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'=', [b'\r', b'\n', after @ ..] | [b'\n', after @ ..]) => rest = after,
            (b'=', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(first),
            },
            _ => bytes.push(first),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{base64, meta_charset, quoted_printable};

    #[test]
    fn damaged_base64() {
        assert_eq!(base64(b"SGVs\r\nbG8="), b"Hello");
        assert_eq!(base64(b"\nSGVsbG8"), b"Hello");
        assert_eq!(base64(b"SG!Vs\x00bG8="), b"Hello");
        assert_eq!(base64(b"SGVsbG8=\nmore"), b"Hello");
        assert_eq!(base64(b"SGVsbG9v\n\nhttps://list.example/footer"), b"Helloo");
        assert_eq!(base64(b"SGVs\n\nbG8="), b"Hello");
        assert_eq!(base64(b"SGVs\n--delimiter"), b"Hel");
        assert_eq!(base64(b"="), b"");
    }

    #[test]
    fn damaged_quoted_printable() {
        assert_eq!(quoted_printable(b"caf=E9 =\r\nau =ZZ 1=2 ="), b"caf\xe9 au =ZZ 1=2 =");
    }

    #[test]
    fn charset_of_a_page() {
        let name = |html: &str| meta_charset(html.as_bytes()).map(encoding_rs::Encoding::name);
        assert_eq!(name("<meta content='text/html; charset=windows-1254'>"), Some("windows-1254"));
        assert_eq!(name("<META CHARSET=\"big5\">"), Some("Big5"));
        assert_eq!(name("<p>charset=nonsense"), None);
        assert_eq!(name("charset="), None);
    }
}

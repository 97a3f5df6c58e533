//! Bounds on the structure of a message, before and after it is parsed.

use mail_parser::{Message, PartType};

use crate::mail::{EmailError, Limits};

/// Refuses what would make the parser build far more parts than the limit: a part costs it many
/// times the few bytes that a delimiter needs. Lines that merely look like delimiters count too,
/// hence the margin.
pub(crate) fn check_outline(raw: &[u8], limits: &Limits) -> Result<(), EmailError> {
    const MARGIN: usize = 8;
    let opens_part = |line: &&[u8]| {
        let dashes = line.iter().take_while(|&&byte| byte == b'-').count();
        match line.get(dashes) {
            Some(byte) => dashes >= 2 && !byte.is_ascii_whitespace() || encloses_message(line),
            None => false,
        }
    };
    let parts = raw.split(|&byte| byte == b'\n').filter(opens_part).count();
    if parts > limits.parts_max.saturating_mul(MARGIN) {
        return Err(EmailError::TooManyParts { parts, parts_max: limits.parts_max });
    }
    Ok(())
}

/// A header line that names a message as its content.
fn encloses_message(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'c' | b'C' | b' ' | b'\t'))
        && line.windows(8).any(|word| word.eq_ignore_ascii_case(b"message/"))
}

/// Drops a message without recursion; its own drop would recurse as deeply as it is nested.
pub(crate) fn take_apart(message: Message<'_>) {
    let mut open = vec![message];
    while let Some(message) = open.pop() {
        open.extend(message.parts.into_iter().filter_map(|part| match part.body {
            PartType::Message(attached) => Some(attached),
            _ => None,
        }));
    }
}

/// Depth first, without recursion: depth is what an attacker chooses.
pub(crate) fn check_shape(message: &Message<'_>, limits: &Limits) -> Result<(), EmailError> {
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

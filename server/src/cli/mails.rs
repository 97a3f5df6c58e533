//! Mails from files, one after the other: JSON lines, mbox, Maildir, a folder of messages.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};

use super::collect_files;
use crate::error::Error;
use crate::http::parse;
use crate::input::Input;

/// One mail as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mail {
    /// A JSON line, which may be empty.
    Line(Vec<u8>),
    /// A whole message.
    Raw(Vec<u8>),
}

/// A whole message as an item of `inputs`.
pub(super) fn raw_json(raw: &[u8]) -> Value {
    json!({"raw": base64::engine::general_purpose::STANDARD.encode(raw)})
}

/// Mails, each with its share of the whole.
type Found = Box<dyn Iterator<Item = Result<(Mail, u64), Error>> + Send>;

/// A source of mails.
pub(super) struct Mails {
    /// Its mails, each with its share of `total`.
    pub(super) mails: Found,
    /// Bytes of a file, files of a folder; unknown of standard input.
    pub(super) total: Option<u64>,
    /// Whether `total` counts bytes.
    pub(super) in_bytes: bool,
}

impl Mail {
    pub(super) fn into_line(self) -> Vec<u8> {
        let mut line = match self {
            Self::Line(line) => line,
            Self::Raw(raw) => raw_json(&raw).to_string().into_bytes(),
        };
        line.push(b'\n');
        line
    }

    /// What there is to read; nothing in an empty line.
    pub(super) fn into_input(self) -> Option<Result<Input, Error>> {
        match self {
            Self::Line(line) if line.iter().all(u8::is_ascii_whitespace) => None,
            Self::Line(line) => Some(parse(&line)),
            Self::Raw(raw) => Some(Ok(Input::Raw(raw))),
        }
    }
}

/// Mails of a file (mbox if it begins so, else JSON lines), a Maildir or another folder, in the
/// order of their names; `-` is standard input.
///
/// # Errors
/// It cannot be read.
pub(super) fn open(path: &Path) -> Result<Mails, Error> {
    let fails = |error| Error::setup(path.display().to_string(), error);
    if path.as_os_str() == "-" {
        let reader = BufReader::new(std::io::stdin());
        return Ok(Mails { mails: of(reader)?, total: None, in_bytes: true });
    }
    if !path.is_dir() {
        let file = File::open(path).map_err(fails)?;
        let total = file.metadata().map_err(fails)?.len();
        return Ok(Mails { mails: of(BufReader::new(file))?, total: Some(total), in_bytes: true });
    }
    let parts = [path.join("cur"), path.join("new")];
    let folders: Vec<PathBuf> = if parts.iter().any(|part| part.is_dir()) {
        parts.into_iter().filter(|part| part.is_dir()).collect()
    } else {
        vec![path.to_owned()]
    };
    let mut files = Vec::new();
    folders.iter().try_for_each(|folder| collect_files(folder, &mut files))?;
    let total = Some(files.len() as u64);
    let read = |path: PathBuf| match std::fs::read(&path) {
        Ok(raw) => Ok((Mail::Raw(raw), 1)),
        Err(error) => Err(Error::setup(path.display().to_string(), error)),
    };
    Ok(Mails { mails: Box::new(files.into_iter().map(read)), total, in_bytes: false })
}

fn of<R: BufRead + Send + 'static>(mut reader: R) -> Result<Found, Error> {
    let start = reader.fill_buf().map_err(|error| Error::setup("reading", error))?;
    if start.starts_with(b"From ") {
        return Ok(Box::new(Mbox { reader, line: Vec::new(), begun: false }));
    }
    Ok(Box::new(std::iter::from_fn(move || {
        let mut line = Vec::new();
        let bytes = match reader.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(bytes) => bytes as u64,
            Err(error) => return Some(Err(Error::setup("reading", error))),
        };
        line.pop_if(|byte| *byte == b'\n');
        Some(Ok((Mail::Line(line), bytes)))
    })))
}

/// Messages of an mbox (RFC 4155): each begins with a line `From …` after an empty one; such lines
/// of its own have one `>` more (as mboxrd has it).
struct Mbox<R> {
    reader: R,
    line: Vec<u8>,
    begun: bool,
}

impl<R: BufRead> Iterator for Mbox<R> {
    type Item = Result<(Mail, u64), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut message, mut bytes, mut after_empty) = (Vec::new(), 0, true);
        loop {
            self.line.clear();
            match self.reader.read_until(b'\n', &mut self.line) {
                Ok(0) => break,
                Ok(read) => bytes += read as u64,
                Err(error) => return Some(Err(Error::setup("reading", error))),
            }
            let first = !std::mem::replace(&mut self.begun, true);
            if after_empty && self.line.starts_with(b"From ") {
                if first {
                    continue;
                }
                return Some(Ok((Mail::Raw(message), bytes)));
            }
            after_empty = matches!(self.line.as_slice(), b"\n" | b"\r\n");
            let quotes = self.line.iter().take_while(|&&byte| byte == b'>').count();
            let quoted = quotes > 0 && self.line[quotes..].starts_with(b"From ");
            message.extend_from_slice(&self.line[usize::from(quoted)..]);
        }
        // What is left after the last of all.
        (bytes > 0).then_some(Ok((Mail::Raw(message), bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Mail, of, open};

    fn all(bytes: &'static [u8]) -> Vec<Mail> {
        let mails: Vec<_> = of(bytes).expect("reads").map(|mail| mail.expect("reads")).collect();
        assert_eq!(mails.iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes.len() as u64);
        mails.into_iter().map(|(mail, _)| mail).collect()
    }

    fn raw(text: &str) -> Mail {
        Mail::Raw(text.as_bytes().to_vec())
    }

    #[test]
    fn mbox_messages_are_told_apart() {
        let mbox = b"From a@b Thu Jan 1\nSubject: one\n\nFrom here it goes on\n\n>From quoted\n>>From twice\n\nFrom c@d Fri\nSubject: two\n\nx";
        // `From here` follows the empty line after the header: such a line has to be quoted.
        let found = all(mbox);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], raw("Subject: one\n\n"));
        assert_eq!(found[2], raw("Subject: two\n\nx"));
        let quoted = b"From a\nSubject: one\n\n>From here\n\nFrom b\n\n";
        assert_eq!(all(quoted), [raw("Subject: one\n\nFrom here\n\n"), raw("\n")]);
    }

    #[test]
    fn json_lines_are_taken_as_they_are() {
        let lines = |texts: &[&str]| -> Vec<Mail> {
            texts.iter().map(|text| Mail::Line(text.as_bytes().to_vec())).collect()
        };
        assert_eq!(all(b"\"a\"\n\n{}\n"), lines(&["\"a\"", "", "{}"]));
        assert_eq!(all(b"\"a\"\n\"b\""), lines(&["\"a\"", "\"b\""]));
        assert_eq!(all(b""), []);
        assert!(lines(&[" "]).remove(0).into_input().is_none());
        assert!(lines(&["nonsense"]).remove(0).into_input().is_some_and(|read| read.is_err()));
        assert_eq!(raw("x").into_line(), b"{\"raw\":\"eA==\"}\n");
    }

    #[test]
    fn folders_are_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let write = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            std::fs::write(&path, path.file_name().expect("a name").as_encoded_bytes())
                .expect("writes");
        };
        let names = || -> Vec<Mail> {
            let mails = open(dir.path()).expect("opens");
            let found: Vec<_> = mails.mails.map(|mail| mail.expect("reads").0).collect();
            assert_eq!(mails.total, Some(found.len() as u64));
            found
        };
        ["b", "a", "z/d", "y/c"].into_iter().for_each(write);
        assert_eq!(names(), [raw("a"), raw("b"), raw("c"), raw("d")]);
        // With `cur` and `new` it is a Maildir, whose other parts are not mails.
        ["new/2", "cur/1", "tmp/3"].into_iter().for_each(write);
        assert_eq!(names(), [raw("1"), raw("2")]);
        assert!(open(&dir.path().join("nothing")).is_err());
    }
}

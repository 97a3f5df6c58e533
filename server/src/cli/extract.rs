//! `postsort extract`: the text that a model would read, so that training sees what serving sees.

use std::path::{Path, PathBuf};

use postsort_email::{Limits, read_rfc822};

use super::{print, read_input};
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Extract {
    /// Raw messages (RFC 5322), folders of them, or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// JSON lines: path, subject, text
    #[arg(long)]
    json: bool,
}

impl Extract {
    pub(super) fn run(self) -> Result<(), Error> {
        let mut files = Vec::new();
        for path in &self.paths {
            collect(path, &mut files)?;
        }
        let mut unreadable = 0;
        for path in &files {
            match read_rfc822(&read_input(path)?, &Limits::default()) {
                Ok(mail) => {
                    let subject = mail.subject.clone();
                    let text = mail.into_model_text().text;
                    if self.json {
                        let line =
                            serde_json::json!({"path": path, "subject": subject, "text": text});
                        print(&line.to_string())?;
                    } else {
                        print(&text)?;
                    }
                }
                Err(error) => {
                    unreadable += 1;
                    eprintln!("{}: {error}", path.display());
                }
            }
        }
        match unreadable {
            0 => Ok(()),
            count => Err(Error::setup(
                "extract",
                format!("{count} of {} files have no text", files.len()),
            )),
        }
    }
}

/// Files in the order of their names, so that output is the same on every machine.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let fails = |e| Error::setup(path.display().to_string(), e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fails)? {
        entries.push(entry.map_err(fails)?.path());
    }
    entries.sort();
    entries.iter().try_for_each(|entry| collect(entry, files))
}

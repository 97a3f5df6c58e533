//! `postsort extract`: the text that a model would read, so that training sees what serving sees.

use std::path::PathBuf;

use postsort_email::{Limits, read_rfc822};

use super::{collect_files, print, read_input};
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
            collect_files(path, &mut files)?;
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

//! `postsort extract`: the text that a model would read, so that training sees what serving sees.

use std::path::PathBuf;

use postsort_email::{Cuts, ReadOptions, read_rfc822};
use serde_json::json;

use super::{collect_files, print, read_input};
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Extract {
    /// Raw messages (RFC 5322), folders of them, or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// JSON lines: path, subject, text, and what else was found
    #[arg(long)]
    json: bool,
    /// What is cut: signature, footer, disclaimer, quotes, or none; as the server is told
    #[arg(long, env = "POSTSORT_MAIL_CUT", value_name = "A,B", default_value_t)]
    mail_cut: Cuts,
}

impl Extract {
    pub(super) fn run(self) -> Result<(), Error> {
        let mut files = Vec::new();
        for path in &self.paths {
            collect_files(path, &mut files)?;
        }
        let options = ReadOptions { cuts: self.mail_cut, ..ReadOptions::default() };
        let mut unreadable = 0;
        for path in &files {
            match read_rfc822(&read_input(path)?, &options) {
                Ok(mail) => {
                    if !self.json {
                        print(&mail.into_model_text().text)?;
                        continue;
                    }
                    let attachments: Vec<_> = mail
                        .attachments
                        .iter()
                        .map(|file| json!({"name": file.name, "media_type": file.media_type}))
                        .collect();
                    let mut line = json!({
                        "path": path,
                        "subject": mail.subject,
                        "attachments": attachments,
                        "zero_width_removed": mail.zero_width_removed,
                        "lookalikes_replaced": mail.lookalikes_replaced,
                    });
                    line["text"] = mail.into_model_text().text.into();
                    print(&line.to_string())?;
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

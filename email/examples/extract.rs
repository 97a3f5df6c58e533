//! Prints the text that a model reads of each mail, as JSON lines: `extract FILE|DIR...`.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use postsort_email::{Limits, read_rfc822};

fn main() -> std::io::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for argument in std::env::args_os().skip(1).map(PathBuf::from) {
        let mut paths = vec![argument];
        if paths[0].is_dir() {
            paths = std::fs::read_dir(&paths[0])?
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<_>>()?;
            paths.sort();
        }
        for path in paths {
            match read_rfc822(&std::fs::read(&path)?, &Limits::default()) {
                Ok(mail) => {
                    let subject = mail.subject.clone();
                    let text = mail.into_model_text().text;
                    let line = serde_json::json!({"path": path, "subject": subject, "text": text});
                    writeln!(out, "{line}")?;
                }
                Err(error) => eprintln!("{}: {error}", path.display()),
            }
        }
    }
    out.flush()
}

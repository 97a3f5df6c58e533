//! The mails that are replayed.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use postsort_email::{Limits, read_rfc822};

use crate::error::Error;

/// One mail, as it came and as a model reads it.
#[derive(Debug, Clone)]
pub struct Mail {
    /// RFC 5322.
    pub raw: Bytes,
    /// Subject and body as text, for protocols that know nothing of mail.
    pub text: String,
}

/// Every mail below `folder` that has a text, in an order that `seed` decides.
///
/// # Errors
/// Where a file cannot be read, or no mail is found.
pub fn read(folder: &Path, seed: u64) -> Result<Vec<Mail>, Error> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    fastrand::Rng::with_seed(seed).shuffle(&mut paths);
    let mut mails = Vec::with_capacity(paths.len());
    for path in paths {
        let raw = std::fs::read(&path).map_err(Error::file(&path))?;
        let Ok(mail) = read_rfc822(&raw, &Limits::default()) else { continue };
        let text = mail.into_model_text().text;
        // A mail without a text is answered 422 whatever the load: it would measure nothing.
        if !text.trim().is_empty() {
            mails.push(Mail { raw: raw.into(), text });
        }
    }
    if mails.is_empty() {
        return Err(Error::Usage(format!("{} holds no mail", folder.display())));
    }
    Ok(mails)
}

/// Files in the order of their names, so that the shuffled order is the same on every machine.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), Error> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::file(folder))? {
        entries.push(entry.map_err(Error::file(folder))?.path());
    }
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, paths)?;
        } else {
            paths.push(entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_orders_what_has_a_text() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("ham")).expect("folder");
        for mail in 0..20 {
            let raw = format!("Subject: number {mail}\r\n\r\nbody\r\n");
            std::fs::write(folder.path().join(format!("ham/{mail}")), raw).expect("mail");
        }
        std::fs::write(folder.path().join("empty"), "\r\n\r\n").expect("mail");
        let texts = |seed| -> Vec<String> {
            let mails = read(folder.path(), seed).expect("mails");
            mails.into_iter().map(|mail| mail.text).collect()
        };
        assert_eq!(texts(1).len(), 20);
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(matches!(read(folder.path(), 1), Err(Error::Usage(_))));
    }
}

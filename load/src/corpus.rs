//! The mails that are replayed.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use postsort_email::{ReadOptions, read_rfc822};

use crate::error::Error;

/// One mail, as it came and as a model reads it.
#[derive(Debug, Clone)]
pub struct Mail {
    /// RFC 5322.
    pub raw: Bytes,
    /// Subject and body as text, for protocols that know nothing of mail.
    pub text: String,
}

/// Mails in a row that are as long as the corpus is, all in all.
const BLOCK: usize = 64;

/// Every mail below `folder` that has a text, in an order that `seed` decides.
///
/// One mail in ten holds four tenths of all text, so that some hundred mails drawn blindly are a
/// tenth more or less work than others. Hence every 64 mails hold one of each length class.
///
/// # Errors
/// Where a file cannot be read, or no mail is found.
pub fn read(folder: &Path, seed: u64) -> Result<Vec<Mail>, Error> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    let mut mails = Vec::with_capacity(paths.len());
    for path in paths {
        let raw = std::fs::read(&path).map_err(Error::file(&path))?;
        let Ok(mail) = read_rfc822(&raw, &ReadOptions::default()) else { continue };
        let text = mail.into_model_text().text;
        // A mail without a text is answered 422 whatever the load: it would measure nothing.
        if !text.trim().is_empty() {
            mails.push(Mail { raw: raw.into(), text });
        }
    }
    if mails.is_empty() {
        return Err(Error::Usage(format!("{} holds no mail", folder.display())));
    }
    Ok(dealt(mails, seed))
}

/// Shuffled, a mail of each length class to a block.
fn dealt(mut mails: Vec<Mail>, seed: u64) -> Vec<Mail> {
    let mut random = fastrand::Rng::with_seed(seed);
    mails.sort_by_key(|mail| mail.text.len());
    let class_mails = mails.len().div_ceil(BLOCK);
    let mut blocks: Vec<Vec<Mail>> = vec![Vec::new(); class_mails];
    let mut mails = mails.into_iter();
    loop {
        let mut class: Vec<Mail> = mails.by_ref().take(class_mails).collect();
        if class.is_empty() {
            break;
        }
        random.shuffle(&mut class);
        blocks.iter_mut().zip(class).for_each(|(block, mail)| block.push(mail));
    }
    blocks.iter_mut().for_each(|block| random.shuffle(block));
    blocks.into_iter().flatten().collect()
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
    fn every_block_is_as_long_as_any_other() {
        // Lengths that double every 128 mails: the sums of mails drawn blindly differ by half.
        let mail = |index: usize| Mail { raw: Bytes::new(), text: "a".repeat(8 << (index / 128)) };
        let mails = dealt((0..64 * 16).map(mail).collect(), 3);
        assert_eq!(mails.len(), 64 * 16);
        let sums: Vec<usize> = mails
            .chunks(BLOCK)
            .map(|block| block.iter().map(|mail| mail.text.len()).sum())
            .collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
        let longest = |block: &[Mail]| block.iter().map(|mail| mail.text.len()).collect::<Vec<_>>();
        assert_ne!(longest(&mails[..64]), longest(&mails[64..128]), "shuffled within");
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(matches!(read(folder.path(), 1), Err(Error::Usage(_))));
    }
}

//! A socket in the file system, for a mail server on the same machine.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::error::Error;

/// The socket's file; removed when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// Listens at `path`. A file that a server has left there that is gone is replaced.
///
/// # Errors
/// Another server listens there, or it cannot be made.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    let what = || format!("listening on {}", path.display());
    let fails = |error: std::io::Error| Error::setup(what(), error);
    // Of anything else that is there binding will complain.
    if std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(Error::setup(what(), "another server listens there"));
        }
        std::fs::remove_file(path).map_err(fails)?;
    }
    let listener = UnixListener::bind(path).map_err(fails)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, PermissionsExt::from_mode(MODE)).map_err(fails)?;
    Ok((listener, file))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by somebody else.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::listen;

    #[tokio::test]
    async fn a_file_left_behind_is_replaced_and_a_server_is_not() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("postsort.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "left behind");
        let (listener, file) = listen(&path).expect("replaced");
        let error = listen(&path).expect_err("in use").to_string();
        assert!(error.contains("another server"), "{error}");
        drop((listener, file));
        assert!(!path.exists());
        std::fs::write(&path, "somebody's notes").expect("writes");
        listen(&path).expect_err("not a socket");
        assert!(path.exists(), "and not removed");
    }
}

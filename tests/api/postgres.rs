//! A PostgreSQL server of a test's own, from the system's package.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::daemon::{Daemon, free_port, leave_out};

/// PostgreSQL does not run as root: then this user runs it.
const NOBODY: u32 = 65534;

/// A running server; killed and forgotten when dropped.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    port: u16,
    server: Daemon,
}

impl Postgres {
    /// A fresh server, or nothing where the package is not installed; with
    /// `POSTSORT_TEST_POSTGRES=required` that fails the test.
    pub(crate) fn start() -> Option<Self> {
        let Some(binaries) = binaries() else {
            leave_out("PostgreSQL", "POSTSORT_TEST_POSTGRES");
            return None;
        };
        let folder = tempfile::tempdir().expect("temporary folder");
        if am_root(folder.path()) {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let (port, server) = (free_port(), Daemon::default());
        let mut postgres = Self { folder, binaries, port, server };
        let data = postgres.folder.path().join("data");
        let made = postgres
            .command("initdb")
            .args(["--auth=trust", "--username=postsort", "--encoding=UTF8", "--no-sync"])
            .args(["--locale=C", "--pgdata"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres.run();
        Some(postgres)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        if am_root(Path::new("/proc/self")) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it, or starts it again.
    pub(crate) fn run(&mut self) {
        let folder = self.folder.path().to_owned();
        let mut command = self.command("postgres");
        command.arg("-D").arg(folder.join("data")).arg("-k").arg(&folder).args([
            "-p",
            &self.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        let mut asking = self.command("psql");
        asking
            .args(["-h", "127.0.0.1", "-U", "postsort", "-d", "postgres", "-c", "SELECT 1"])
            .args(["-p", &self.port.to_string()]);
        let ready = || asking.output().is_ok_and(|asked| asked.status.success());
        let patience = (Duration::from_secs(30), Duration::from_millis(50));
        self.server.run("PostgreSQL", &mut command, patience, ready);
    }

    /// As `kill -9` does: nothing is put in order.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postsort@127.0.0.1:{}/postgres", self.port)
    }
}

/// Who owns what this process makes.
fn am_root(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0)
}

/// The newest that is installed.
fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop()
}

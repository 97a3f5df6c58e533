//! A server of the system's that a test runs, kills and brings back.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process, or none at the moment; killed when dropped.
#[derive(Default)]
pub(crate) struct Daemon(pub(crate) Option<Child>);

impl Daemon {
    /// Starts it and waits until it is `ready`.
    pub(crate) fn run(
        &mut self,
        name: &str,
        command: &mut Command,
        (patience, pause): (Duration, Duration),
        mut ready: impl FnMut() -> bool,
    ) {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.0 = Some(child.unwrap_or_else(|error| panic!("{name} does not run: {error}")));
        let deadline = Instant::now() + patience;
        while !ready() {
            assert!(Instant::now() < deadline, "{name} does not start");
            std::thread::sleep(pause);
        }
    }

    /// As `kill -9` does: nothing is put in order.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Says that a test is left out for want of a package, unless `variable` says `required`: then it fails.
pub(crate) fn leave_out(package: &str, variable: &str) {
    let required = std::env::var(variable).is_ok_and(|set| set == "required");
    assert!(!required, "{package} is not installed");
    eprintln!("left out: {package} is not installed");
}

pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    free.expect("a free port").port()
}

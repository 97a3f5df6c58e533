//! A Redis server of a test's own, from the system's package.

use std::process::Command;
use std::time::Duration;

use crate::daemon::{Daemon, free_port, leave_out};

/// A running server; killed and forgotten when dropped.
pub(crate) struct Redis {
    port: u16,
    server: Daemon,
}

impl Redis {
    /// A fresh server, or nothing where the package is not installed; with
    /// `POSTSORT_TEST_REDIS=required` that fails the test.
    pub(crate) fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            leave_out("Redis", "POSTSORT_TEST_REDIS");
            return None;
        }
        let mut redis = Self { port: free_port(), server: Daemon::default() };
        redis.run();
        Some(redis)
    }

    /// Starts it, or starts it again, with nothing in it.
    pub(crate) fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]).args([
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let url = self.url();
        let ready = || connect(&url).and_then(|mut link| ask(&mut link, &["PING"])).is_ok();
        let patience = (Duration::from_secs(10), Duration::from_millis(10));
        self.server.run("Redis", &mut command, patience, ready);
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Lets it hang, and go on.
    pub(crate) fn hang(&self, hang: bool) {
        let server = self.server.0.as_ref().expect("it runs");
        let signal = if hang { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &server.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// One command and its answer.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut link = connect(&self.url()).expect("connects");
        let answer = ask(&mut link, command).expect("answers");
        redis::from_redis_value(answer).expect("of the type")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn connect(url: &str) -> redis::RedisResult<redis::Connection> {
    redis::Client::open(url)?.get_connection()
}

fn ask(link: &mut redis::Connection, command: &[&str]) -> redis::RedisResult<redis::Value> {
    redis::cmd(command[0]).arg(&command[1..]).query(link)
}

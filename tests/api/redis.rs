//! A Redis server of a test's own, from the system's package.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; killed and forgotten when dropped.
pub(crate) struct Redis {
    port: u16,
    server: Option<Child>,
}

impl Redis {
    /// A fresh server, or nothing where the package is not installed; with
    /// `POSTSORT_TEST_REDIS=required` that fails the test.
    pub(crate) fn start() -> Option<Self> {
        let installed = Command::new("redis-server").arg("--version").output().is_ok();
        let required = std::env::var("POSTSORT_TEST_REDIS").is_ok_and(|set| set == "required");
        assert!(installed || !required, "Redis is not installed");
        if !installed {
            eprintln!("left out: Redis is not installed");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let mut redis = Self { port: port.expect("a free port").port(), server: None };
        redis.run();
        Some(redis)
    }

    /// Starts it, or starts it again, with nothing in it.
    pub(crate) fn run(&mut self) {
        let server = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.server = Some(server.expect("redis-server runs"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.connect().and_then(|mut link| ask(&mut link, &["PING"])).is_err() {
            assert!(Instant::now() < deadline, "Redis does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Lets it hang, and go on.
    pub(crate) fn hang(&self, hang: bool) {
        let server = self.server.as_ref().expect("it runs");
        let signal = if hang { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &server.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    fn connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }

    /// One command and its answer.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut link = self.connect().expect("connects");
        let answer = ask(&mut link, command).expect("answers");
        redis::from_redis_value(answer).expect("of the type")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn ask(link: &mut redis::Connection, command: &[&str]) -> redis::RedisResult<redis::Value> {
    redis::cmd(command[0]).arg(&command[1..]).query(link)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

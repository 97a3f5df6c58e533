//! Keep-alive connections to one target: opened as needed, up to a limit.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// No answer about one mail is longer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

type Connection = SendRequest<Full<Bytes>>;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// `Retry-After` in seconds, where it is a number.
    pub retry_after_seconds: Option<f64>,
    /// The body.
    pub body: Bytes,
}

/// Connections to one target.
#[derive(Debug)]
pub struct Pool {
    host: String,
    port: u16,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Pool {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(host: &str, port: u16, connections_max: usize) -> Arc<Self> {
        let permits = Semaphore::new(connections_max);
        Arc::new(Self { host: host.to_owned(), port, idle: Mutex::default(), permits })
    }

    /// Sends on an idle connection, on a new one, or on the first to become idle.
    ///
    /// # Errors
    /// In a few words, the same for the same cause: they are counted by it.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
        // Never closed, so never refused.
        let _permit = self.permits.acquire().await.map_err(|e| e.to_string())?;
        loop {
            let idle = self.idle().pop();
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            match connection.ready().await {
                Ok(()) => {}
                // The server closed it while it was idle.
                Err(_) if reused => continue,
                Err(error) => return Err(cause(&error)),
            }
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
                    let body = body.map_err(|_| "connection closed within an answer")?.to_bytes();
                    self.idle().push(connection);
                    let retry_after = parts.headers.get(header::RETRY_AFTER);
                    let retry_after_seconds =
                        retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                    return Ok(Answer { status: parts.status, retry_after_seconds, body });
                }
                Err(mut error) => match error.take_message() {
                    // Nothing of it was sent.
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(cause(error.error())),
                },
            }
        }
    }

    /// Closes what is idle.
    pub fn close(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Connection, String> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = connect.await.map_err(|e| format!("connect: {}", e.kind()))?;
        stream.set_nodelay(true).map_err(|e| format!("connect: {}", e.kind()))?;
        let (connection, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| cause(&e))?;
        // Its errors reach whoever waits for the answer.
        tokio::spawn(async move { drop(driver.await) });
        Ok(connection)
    }
}

fn cause(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "connection closed".to_owned();
    }
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(error) => error.kind().to_string(),
        None => error.to_string(),
    }
}

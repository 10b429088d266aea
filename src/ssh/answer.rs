//! Reads what a host prints, within bounds: a host that prints without end costs its limit and not the memory of the
//! controller, and many hosts with long answers are read one after the other.

use super::{Script, TransportError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The longest answer that is read from one host. A host with ten thousand rules answers with 2 MiB.
const MAX_ANSWER: usize = 16 << 20;

/// Answers up to this length are read from any number of hosts at once; a longer one needs a [`Room`].
pub(super) const SHORT_ANSWER: usize = 1 << 20;

/// How long the answer to a document may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLength {
    /// The answer of a step of a transaction.
    Short,
    /// The answer of a probe.
    Long,
}

impl AnswerLength {
    /// The limit in bytes.
    pub(super) fn max_bytes(self) -> usize {
        match self {
            Self::Short => SHORT_ANSWER,
            Self::Long => MAX_ANSWER,
        }
    }
}

/// How many long answers are in memory at once, and what is made of them.
static ROOMS: Semaphore = Semaphore::const_new(2);

/// How long the other long answers may take before a host is given up for their sake.
const ROOM_LIMIT: Duration = Duration::from_secs(30);

/// So much of the end of standard error is kept: why a script failed stands there.
const STDERR_KEPT: usize = 64 << 10;

/// How long after the end of an answer the streams may stay open before they count as held by another process.
const GRACE: Duration = Duration::from_millis(300);

/// The memory of a long answer. Whoever turns the answer into something else keeps it until the answer is gone.
#[derive(Debug, Default)]
pub struct Room(Option<SemaphorePermit<'static>>);

/// What a document printed.
#[derive(Debug)]
pub struct Answer {
    /// Standard output, not longer than was asked for.
    pub stdout: Vec<u8>,
    /// The end of standard error.
    pub stderr: String,
    /// What the length of the answer takes up.
    pub room: Room,
    /// Whether another process, which an rc file of the login started, holds the streams open.
    pub(super) held_open: bool,
}

/// Standard output: all of it is needed.
struct Output<R> {
    from: R,
    limit: usize,
    all: Vec<u8>,
    room: Room,
    /// When it stops waiting for room; other streams wake it meanwhile.
    room_by: Option<Instant>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn new(from: R, limit: usize) -> Self {
        Self { from, limit, all: Vec::new(), room: Room::default(), room_by: None, ended: false }
    }

    /// Waits for more; where it is not waited for to the end, nothing is lost.
    async fn read(&mut self) -> Result<(), TransportError> {
        if self.all.len() > SHORT_ANSWER && self.room.0.is_none() {
            self.make_room().await?;
        }
        if self.all.capacity() - self.all.len() < 64 << 10 {
            self.all.reserve(64 << 10);
        }
        let n = self.from.read_buf(&mut self.all).await.map_err(|e| TransportError::Lost(e.to_string()))?;
        self.ended = n == 0;
        if self.all.len() > self.limit {
            return Err(TransportError::TooLong { stream: "stdout", limit: self.limit });
        }
        Ok(())
    }

    /// The host waits meanwhile: nobody reads what it prints.
    async fn make_room(&mut self) -> Result<(), TransportError> {
        let deadline = *self.room_by.get_or_insert_with(|| Instant::now() + ROOM_LIMIT);
        let permit = tokio::time::timeout_at(deadline, ROOMS.acquire()).await;
        self.room = Room(Some(permit.ok().and_then(Result::ok).ok_or(TransportError::NoRoom)?));
        // Doubling would take up more than the answer may be long.
        self.all.reserve_exact((self.limit + (64 << 10)).saturating_sub(self.all.len()));
        Ok(())
    }
}

/// Standard error: only its end is needed.
struct Errors<R> {
    from: R,
    limit: usize,
    tail: Vec<u8>,
    length: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Errors<R> {
    fn new(from: R, limit: usize) -> Self {
        Self { from, limit, tail: Vec::new(), length: 0, ended: false }
    }

    async fn read(&mut self) -> Result<(), TransportError> {
        if self.tail.len() > STDERR_KEPT {
            self.tail.drain(..self.tail.len() - STDERR_KEPT);
        }
        self.tail.reserve(16 << 10);
        let n = self.from.read_buf(&mut self.tail).await.map_err(|e| TransportError::Lost(e.to_string()))?;
        self.length += n;
        self.ended = n == 0;
        if self.length > self.limit {
            return Err(TransportError::TooLong { stream: "stderr", limit: self.limit });
        }
        Ok(())
    }
}

/// Reads both streams to the end, or until the script's last line has come and nothing follows it.
async fn read_answer(
    stdout: impl AsyncRead + Unpin,
    stderr: impl AsyncRead + Unpin,
    end: &[u8],
    limit: usize,
) -> Result<Answer, TransportError> {
    let (mut out, mut err) = (Output::new(stdout, limit), Errors::new(stderr, limit));
    let (mut over, mut looked) = (None, 0);
    let held_open = loop {
        if out.ended && err.ended {
            break false;
        }
        tokio::select! {
            read = out.read(), if !out.ended => read?,
            read = err.read(), if !err.ended => read?,
            () = tokio::time::sleep(GRACE), if over.is_some() => break true,
        }
        if over.is_none() {
            let from = out.all.get(looked..).unwrap_or_default();
            over = from.windows(end.len()).position(|part| part == end).map(|at| looked + at);
            looked = out.all.len().saturating_sub(end.len());
        }
    };
    if let Some(at) = over {
        out.all.truncate(at);
    }
    let stderr = String::from_utf8_lossy(&err.tail).trim().to_owned();
    Ok(Answer { stdout: out.all, stderr, room: out.room, held_open })
}

/// Feeds a script to a child and collects what it prints, all three streams at once: a pipe that
/// nobody reads would block the other end.
pub(super) async fn exchange(
    stdin: Option<impl AsyncWrite + Unpin>,
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    script: &Script,
) -> Result<Answer, TransportError> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(TransportError::Here("the child has no pipes".into()));
    };
    let feed = async move {
        // A shell that ends early closes its stdin; what it printed says why.
        let _ = stdin.write_all(script.text.as_bytes()).await;
        let _ = stdin.shutdown().await;
        drop(stdin);
    };
    let read = read_answer(stdout, stderr, script.end.as_bytes(), script.limit);
    tokio::pin!(feed, read);
    let mut fed = false;
    loop {
        tokio::select! {
            () = &mut feed, if !fed => fed = true,
            answer = &mut read => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(length: usize, stderr: usize, limit: usize) -> Result<Answer, TransportError> {
        let (mut to, stdout) = tokio::io::duplex(64 << 10);
        let (mut to_err, errors) = tokio::io::duplex(64 << 10);
        let feed = async move {
            let _ = to.write_all(&vec![b'x'; length]).await;
            drop(to);
            let _ = to_err.write_all(&vec![b'e'; stderr]).await;
            let _ = to_err.write_all(b"why\n").await;
        };
        let (answer, ()) = tokio::join!(read_answer(stdout, errors, b"\nend\n", limit), feed);
        answer
    }

    #[tokio::test]
    async fn long_answers_are_read_one_after_the_other() {
        let long = || read(2 * SHORT_ANSWER, 0, MAX_ANSWER);
        let first = long().await.unwrap();
        let _second = long().await.unwrap();
        let third = tokio::spawn(long());
        // Short ones go on.
        assert_eq!(read(SHORT_ANSWER, 0, MAX_ANSWER).await.unwrap().stdout.len(), SHORT_ANSWER);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!third.is_finished(), "there is room for two");
        drop(first);
        assert_eq!(third.await.unwrap().unwrap().stdout.len(), 2 * SHORT_ANSWER);
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_limit() {
        let error = read(SHORT_ANSWER + 1, 0, SHORT_ANSWER).await.unwrap_err().to_string();
        assert!(error.contains("more than 1 MiB on stdout"), "{error}");
        let error = read(0, 3 * SHORT_ANSWER, 2 * SHORT_ANSWER).await.unwrap_err().to_string();
        assert!(error.contains("more than 2 MiB on stderr"), "{error}");
        let end = read(0, SHORT_ANSWER, 2 * SHORT_ANSWER).await.unwrap().stderr;
        assert!(end.ends_with("eewhy") && end.len() <= STDERR_KEPT + (16 << 10), "{}", end.len());
    }
}

//! How long guests could not be reached.

use super::Lab;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A ping every 10 ms from a guest, in the background: the measure of an outage.
#[derive(Debug)]
pub struct Flood {
    child: Child,
    /// A word for each answer.
    answers: mpsc::Receiver<()>,
    reader: Option<JoinHandle<String>>,
}

/// Starts a [`Flood`], and returns with its first answer, or without one after half a second.
pub fn flood(lab: &Lab, host: &str, from_guest: &str, addr: &str) -> Flood {
    let mut child = lab
        .command(&["guest", host, from_guest])
        .args(["--", "ping", "-n", "-i", "0.01", "-W1", addr])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("bash runs");
    let stdout = child.stdout.take().expect("is piped");
    let (answered, answers) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.contains("icmp_seq=") {
                let _ = answered.send(());
            }
            text += &line;
            text.push('\n');
        }
        text
    });
    let _ = answers.recv_timeout(Duration::from_millis(500));
    Flood { child, answers, reader: Some(reader) }
}

impl Flood {
    /// Lets it run on until so many answers have come in all. Where none come any more, [`Flood::stop`] counts that.
    pub fn run_on(&self, answers: usize) {
        // The first one was taken when it began.
        for _ in 1..answers {
            if self.answers.recv_timeout(Duration::from_secs(5)).is_err() {
                return;
            }
        }
    }

    /// Ends it: how many were sent, and how many of those got no answer. One that was sent at the very
    /// last moment does not count.
    pub fn stop(mut self) -> (u32, u32) {
        self.interrupt();
        let text = self.reader.take().map(|reader| reader.join().expect("reads")).unwrap_or_default();
        let last_answered = text
            .lines()
            .filter_map(|line| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse::<u32>().ok())
            .max()
            .unwrap_or(0);
        let summary = text.lines().find(|line| line.contains("packets transmitted")).expect("ping sums up");
        let number = |n: usize| {
            summary.split(", ").nth(n).and_then(|s| s.split(' ').next()).and_then(|s| s.parse::<u32>().ok())
        };
        let (sent, received) = (number(0).expect("sent"), number(1).expect("received"));
        let sent = if last_answered > 0 && last_answered + 1 == sent { last_answered } else { sent };
        (sent, sent.saturating_sub(received))
    }

    /// The ping is inside the guest, but in the process group of the child.
    fn interrupt(&mut self) {
        let _ = Command::new("kill").args(["-INT", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.interrupt();
        }
    }
}

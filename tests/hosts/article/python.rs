//! Programs that run beside a test.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A Python program that runs beside the test, ended on drop.
pub struct Python {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Python {
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().expect("bash runs");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("reads");
        assert_eq!(line, "ready\n", "{command:?}");
        Self { child, stdin, stdout }
    }

    /// Closes its stdin, and returns all it still says.
    pub fn rest(&mut self) -> String {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("reads");
        text
    }

    /// Ends [`Stage::flows`]: those that got no answer, a line each.
    #[track_caller]
    pub fn lost(mut self) -> String {
        let text = self.rest();
        let begun: u32 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(begun > 40, "too few flows to tell: {text}");
        text.lines().skip(1).map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

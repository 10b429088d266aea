//! A program on a terminal of its own, with somebody who reads and types.

use super::transaction::wait;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);

/// The terminal and the program on it.
pub struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    child: Child,
}

impl Terminal {
    /// Starts a command on a new terminal, which is its stdin, stdout and stderr.
    pub fn start(mut command: Command) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave = File::from(pty.slave);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        drop(command);
        let master = File::from(pty.master);
        Self::reading(master.try_clone().unwrap(), master, child)
    }

    /// The same for `ssh -tt`, which makes the terminal at the other end.
    pub fn over_ssh(mut command: Command) -> Self {
        let (out, to) = std::io::pipe().unwrap();
        let (from, keys) = std::io::pipe().unwrap();
        command.stdin(Stdio::from(from)).stdout(to.try_clone().unwrap()).stderr(to);
        let child = command.spawn().unwrap();
        drop(command);
        Self::reading(File::from(OwnedFd::from(out)), File::from(OwnedFd::from(keys)), child)
    }

    fn reading(mut from: File, keys: File, child: Child) -> Self {
        let screen = Arc::new(Mutex::new(String::new()));
        let shared = screen.clone();
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal whose other end is closed gives an error and not an end.
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { keys, screen, reader, child }
    }

    pub fn screen(&self) -> String {
        self.screen.lock().unwrap().replace('\r', "")
    }

    /// Waits until a text is on the screen.
    #[track_caller]
    pub fn sees(&self, text: &str) {
        let start = Instant::now();
        while !self.screen().contains(text) {
            assert!(start.elapsed() < LIMIT, "`{text}` is not on the screen:\n{}", self.screen());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn type_line(&mut self, line: &str) {
        self.press(&format!("{line}\n"));
    }

    /// Presses keys, such as Ctrl-S, `\x13`.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// What Ctrl-C does.
    pub fn interrupt(&self) {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Kills the ssh that holds the terminal; the far end hangs it up.
    pub fn hang_up(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end of the program: its exit code, and the screen.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        let status = wait("the program ends", LIMIT, || self.child.try_wait().unwrap());
        self.reader.join().unwrap();
        let screen = self.screen.lock().unwrap().replace('\r', "");
        (status.code().unwrap_or(-1), screen)
    }
}

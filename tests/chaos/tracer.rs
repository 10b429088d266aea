//! The tracer (`tracer.c`) as a test uses it: it follows every process that the host scripts start, and strikes one.

use crate::common::Lab;
use crate::common::project::Run;
use crate::common::transaction::wait;
use crate::host::HOST;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How a process is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL before the process does anything.
    Birth,
    /// SIGKILL when it has done everything but exit: its work is done, and its status says that it is not.
    End,
    /// It cannot execute its program (EIO).
    Exec,
    /// Each read of a file of kvmfw's fails (EIO).
    Read,
    /// SIGSTOP before it does anything: it hangs for ever.
    Stop,
}

impl Blow {
    pub fn name(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::End => "end",
            Self::Exec => "exec",
            Self::Read => "read",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One process of an operation, and a way to strike it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub label: String,
    pub blow: Blow,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.blow, self.label)
    }
}

/// What the tracer wrote down.
#[derive(Debug, Default)]
pub struct Record(String);

impl Record {
    fn lines(&self, what: &str) -> impl Iterator<Item = (&str, &str)> {
        let start = format!("{what} ");
        let lines = self.0.lines().filter_map(move |line| line.strip_prefix(start.as_str()));
        lines.map(|line| line.split_once(' ').unwrap_or((line, "")))
    }

    /// The process that was struck, as it is called here.
    pub fn struck(&self) -> Option<u32> {
        self.lines("struck").next().and_then(|(_, pid)| pid.parse().ok())
    }

    /// The last program that a process executed.
    pub fn program(&self, label: &str) -> Option<&str> {
        self.lines("exec").filter(|(of, _)| *of == label).map(|(_, program)| program).last()
    }

    /// Everything that can be struck. Sessions themselves are sshd's: that one ends is a lost connection, which the
    /// random runs have.
    pub fn targets(&self) -> Vec<Target> {
        // A timer that is killed in every run never comes to its end.
        let ended: BTreeSet<&str> = self.lines("exit").map(|(label, _)| label).collect();
        let mut targets = Vec::new();
        let mut add = |label: &str, blow| {
            if blow != Blow::End || ended.contains(label) {
                targets.push(Target { label: label.to_owned(), blow });
            }
        };
        for (label, _) in self.lines("birth") {
            add(label, Blow::Birth);
            add(label, Blow::End);
            add(label, Blow::Stop);
        }
        for (label, _) in self.lines("exec") {
            add(label, if label.contains('/') { Blow::Exec } else { Blow::End });
        }
        for (label, _) in self.lines("read") {
            add(label, Blow::Read);
        }
        targets.sort();
        targets.dedup();
        targets
    }
}

/// A tracer that runs.
pub struct Tracer {
    child: Child,
    log: PathBuf,
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/tracer.c");
        let program =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tracer-{}", std::process::id()));
        let built = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).status().unwrap();
        assert!(built.success(), "the tracer does not compile");
        program
    })
}

fn command(lab: &Lab, mode: &str, label: &str) -> (Command, PathBuf) {
    let log = lab.dir().join("tracer.log");
    let _ = fs::remove_file(&log);
    let mut command = Command::new(program());
    command.arg(&log).args([mode, label]).stdin(Stdio::null());
    (command, log)
}

fn mode_of(target: Option<&Target>) -> (&'static str, &str) {
    target.map_or(("reads", "-"), |t| (t.blow.name(), t.label.as_str()))
}

/// Follows all that comes over SSH to the host from now on.
pub fn attach(lab: &Lab, target: Option<&Target>) -> Tracer {
    let (mode, label) = mode_of(target);
    let sshd = fs::read_to_string(lab.dir().join("hosts").join(HOST).join("pid")).unwrap();
    let (mut command, log) = command(lab, mode, label);
    let child = command.args(["-p", sshd.split_whitespace().next().unwrap()]).spawn().unwrap();
    let tracer = Tracer { child, log };
    tracer.is_ready();
    tracer
}

/// Runs `lab.sh` with these arguments, and follows it and all that it starts until it ends.
pub fn follow(lab: &Lab, target: Option<&Target>, args: &[&str]) -> (Run, Record) {
    let (mode, label) = mode_of(target);
    let (mut command, log) = command(lab, mode, label);
    let started = Instant::now();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab.sh");
    let (dir, tail) =
        (lab.dir().to_str().unwrap(), args.iter().position(|a| *a == "--").unwrap_or(args.len()));
    command.args(["--", "/bin/bash", script]).args(&args[..tail]).args(["--dir", dir]).args(&args[tail..]);
    let output = command.output().unwrap();
    let run = Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    };
    (run, Record(fs::read_to_string(&log).unwrap_or_default()))
}

impl Tracer {
    fn is_ready(&self) {
        wait("the tracer", Duration::from_secs(60), || {
            fs::read_to_string(&self.log).is_ok_and(|log| log.contains('\n')).then_some(())
        });
    }

    /// Lets everything run on by itself.
    pub fn end(mut self) -> Record {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Record(fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

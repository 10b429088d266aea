//! A transaction as it shows on a host's disk, for tests that interfere with it.

use super::Lab;
use super::project::{Project, Run};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// Waits for something to become so.
#[track_caller]
pub fn wait<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something is so. The limit only keeps a test that waits in vain from waiting for ever.
#[track_caller]
pub fn until(what: &str, mut look: impl FnMut() -> bool) {
    wait(what, Duration::from_secs(120), || look().then_some(()));
}

/// The folder of the newest transaction on a host.
pub fn newest(lab: &Lab, host: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(lab.disk(host, "/var/lib/kvmfw/txn")).ok()?;
    let time = |path: &PathBuf| fs::metadata(path.join("ssh")).and_then(|m| m.modified()).ok();
    folders.flatten().map(|e| e.path()).max_by_key(time)
}

/// Waits until a mark of a transaction other than `not` is there, and returns its folder.
#[track_caller]
pub fn marked(lab: &Lab, host: &str, mark: &str, not: Option<&PathBuf>) -> PathBuf {
    wait(&format!("a transaction with `{mark}`"), Duration::from_secs(60), || {
        newest(lab, host).filter(|t| Some(t) != not && t.join(mark).exists())
    })
}

/// Waits for the end of a transaction, and returns what came of it.
#[track_caller]
pub fn ended(folder: &Path) -> String {
    wait("the host ends it", Duration::from_secs(60), || {
        let done = read(folder, "done");
        (!done.is_empty()).then_some(done)
    })
}

pub fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned()
}

/// From one mark of a transaction to another, by the clock of the disk.
#[track_caller]
pub fn between(folder: &Path, from: &str, to: &str) -> Duration {
    let time = |file: &str| {
        let m = fs::metadata(folder.join(file)).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        Duration::new(u64::try_from(m.ctime()).unwrap(), u32::try_from(m.ctime_nsec()).unwrap())
    };
    time(to).saturating_sub(time(from))
}

/// The words of a lockout-proof ruleset for one extra port.
pub fn opened(port: u16) -> String {
    format!(
        "modules: [host-firewall, bridge-accept-each]\nbridges: {{ br123: {{ manage: false }} }}\nparams: {{ host-firewall: {{ allow_tcp: [22, {port}] }} }}\n"
    )
}

/// The same with a check that fails when it counts.
pub fn failing(port: u16) -> String {
    format!("{}checks: [{{ command: 'false', required: true }}]\n", opened(port))
}

/// The same with a check that holds the window open until `/run/go` is there.
pub fn held(port: u16) -> String {
    let check =
        "test -e /run/first || { touch /run/first; exit 0; }; until test -e /run/go; do sleep 0.1; done";
    format!("{}checks: [{{ command: '{check}', timeout: 30s }}]\n", opened(port))
}

/// `apply -y` with a short window, in the background.
pub fn start(lab: &Lab, project: &Project, more: &[&str]) -> Child {
    let mut args = vec!["apply", "-y", "--apply-timeout", "10s", "--confirm-timeout", "5s"];
    args.extend(more);
    project.spawn(lab, &args)
}

/// What a kvmfw that was started said in the end.
pub fn end(child: Child) -> Run {
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

/// Puts a script in the place of a tool of a host; `exec REAL "$@"` is up to the script.
pub fn wrap(lab: &Lab, host: &str, tool: &str, script: &str) {
    let path = lab.disk(host, &format!("/etc/alternatives/{tool}"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, script).unwrap();
    lab.host(host, &["chmod", "755", &format!("/etc/alternatives/{tool}")]).ok();
}

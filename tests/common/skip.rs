//! Whether a test can run here, and how loudly it says that it cannot.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Whether the lab can run here. If not, says so for all to see, or panics where a skipped test must
/// not pass for a good one (`CI=true` or `KVMFW_NO_SKIP=1`).
#[must_use]
#[track_caller]
pub fn require_root() -> bool {
    match missing() {
        None => true,
        Some(why) => may_skip(&why),
    }
}

/// The same for tools that only some tests need.
#[must_use]
#[track_caller]
pub fn require_tools(tools: &[&str]) -> bool {
    match absent(tools) {
        None => true,
        Some(why) => may_skip(&why),
    }
}

/// Says for all to see that the test is skipped, or panics where it may not be.
#[track_caller]
fn may_skip(why: &str) -> bool {
    let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    assert!(!set("CI", "true") && !set("KVMFW_NO_SKIP", "1"), "this test may not be skipped: needs {why}");
    tell(&format!("\nSKIPPED: needs {why} ({})", std::panic::Location::caller()));
    false
}

/// Those of the tools that are not there.
fn absent(tools: &[&str]) -> Option<String> {
    let there = |tool: &&&str| {
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(tool).exists())
    };
    let absent: Vec<&str> = tools.iter().filter(|tool| !there(tool)).copied().collect();
    (!absent.is_empty()).then(|| absent.join(", "))
}

fn missing() -> Option<String> {
    let id = Command::new("id").arg("-u").output().ok()?;
    if id.stdout != b"0\n" {
        return Some("root".to_owned());
    }
    let tools = [
        "ip",
        "nsenter",
        "unshare",
        "setsid",
        "sshd",
        "ssh",
        "ssh-keygen",
        "ifup",
        "brctl",
        "iptables-nft",
        "iptables-legacy",
        "sudo",
        "awk",
        "ping",
        "busybox",
        "dmesg",
    ];
    if let Some(absent) = absent(&tools) {
        return Some(format!("root and {absent}"));
    }
    let netns = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--uts", "--fork", "true"])
        .output()
        .ok()?;
    (!netns.status.success()).then(|| "namespaces".to_owned())
}

/// Says something past the test runner, which keeps what is printed for itself.
pub fn tell(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

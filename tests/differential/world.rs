//! The host under test and its neighbours, for real: namespaces that `wire.py` makes.

use kvmfw::netfilter::IptablesBackend;
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::save::SavedTables;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The namespaces; they end with the process that holds them.
pub struct World {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    net: String,
}

impl World {
    pub fn up() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/wire.py");
        let mut child = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let orders = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let hello = line(&mut answers);
        let net = format!("--net=/proc/{}/fd/{}", hello["pid"], hello["net"]);
        World { child, orders, answers, net }
    }

    /// Sends a packet; where it was seen.
    pub fn send(&mut self, order: &Value) -> Vec<Value> {
        writeln!(self.orders, "{order}").unwrap();
        match line(&mut self.answers) {
            Value::Array(seen) => seen,
            other => panic!("{other}"),
        }
    }

    /// Runs a command on the host; its stdout, or its stderr.
    pub fn host(&self, command: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("nsenter")
            .arg(&self.net)
            .args(command)
            .env("XTABLES_LOCKFILE", format!("/run/kvmfw-differential-{}.lock", std::process::id()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Replaces all rules of a backend and family; what is there then, or why the kernel refused.
    pub fn load(
        &self,
        backend: IptablesBackend,
        family: IpFamily,
        rules: &str,
    ) -> Result<SavedTables, String> {
        let tool = |what: &str| {
            let family = if family == IpFamily::V4 { "iptables" } else { "ip6tables" };
            let backend = if backend == IptablesBackend::Nft { "nft" } else { "legacy" };
            format!("{family}-{backend}-{what}")
        };
        self.host(&[&tool("restore")], rules)?;
        let saved = self.host(&[&tool("save")], "")?;
        SavedTables::parse(&saved).map_err(|error| format!("{error}\n{saved}"))
    }

    /// Empties conntrack: what has no ports cannot be told from an earlier connection.
    pub fn forget(&self) {
        self.host(&["conntrack", "-F"], "").unwrap();
    }

    /// Whether rules see what bridges carry: what is said for all, and what for br0.
    pub fn nf_call(&self, family: IpFamily, all: bool, own: bool) {
        let name = if family == IpFamily::V4 { "iptables" } else { "ip6tables" };
        self.sysctl(&format!("net.bridge.bridge-nf-call-{name}"), all.into());
        let own = u8::from(own).to_string();
        self.host(&["ip", "link", "set", "br0", "type", "bridge", &format!("nf_call_{name}"), &own], "")
            .unwrap();
    }

    pub fn sysctl(&self, key: &str, value: u32) {
        self.host(&["sysctl", "-qw", &format!("{key}={value}")], "").unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(format!("/run/kvmfw-differential-{}.lock", std::process::id()));
    }
}

fn line(answers: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "wire.py ended");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

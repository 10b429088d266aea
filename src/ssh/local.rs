//! This machine as the host.

use super::answer::{Answer, exchange};
use super::{Script, TransportError};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use tokio::process::Command;

/// `sh` on this machine, as root.
pub struct LocalSession {
    /// The SSH connection over which the operator came here.
    operator: String,
}

impl LocalSession {
    pub(super) fn new() -> Self {
        Self { operator: operator_connection().unwrap_or_default() }
    }

    pub(super) async fn run(&self, script: &Script) -> Result<Answer, TransportError> {
        let operator = format!("OPERATOR_CONNECTION={}", self.operator);
        let root = nix::unistd::geteuid().is_root();
        let mut command = Command::new(if root { "/usr/bin/env" } else { "sudo" });
        if !root {
            command.args(["-n", "/usr/bin/env"]);
        }
        // Nothing is applied over the operator's connection, so it may well be the one that confirms.
        command.arg("-i").arg(&operator).args(super::ENVIRONMENT.split(' ')).args(["/bin/sh", "-s"]);
        let mut child = command
            // A key that is pressed for kvmfw is not meant for what it has begun.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| TransportError::Here(format!("cannot run sh: {e}")))?;
        let answer = exchange(child.stdin.take(), child.stdout.take(), child.stderr.take(), script).await?;
        let _ = child.wait().await;
        if answer.stdout.is_empty() && !root {
            let why = answer.stderr.lines().last().unwrap_or("sudo failed").to_owned();
            return Err(TransportError::Privilege(format!("this needs root: run it with sudo ({why})")));
        }
        Ok(answer)
    }
}

/// `SSH_CONNECTION` of this process, or of one that it descends from: sudo takes it out of the
/// environment.
fn operator_connection() -> Option<String> {
    let mut pid = std::process::id();
    while pid > 1 {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let found = environment.split(|byte| *byte == 0).find_map(|v| v.strip_prefix(b"SSH_CONNECTION="));
        if let Some(value) = found.and_then(|value| std::str::from_utf8(value).ok())
            && is_connection(value)
        {
            return Some(value.to_owned());
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    }
    None
}

/// `CLIENT PORT SERVER PORT`, as sshd writes it.
fn is_connection(text: &str) -> bool {
    let words: Vec<&str> = text.split(' ').collect();
    matches!(words[..], [client, from, server, to]
        if client.parse::<IpAddr>().is_ok() && server.parse::<IpAddr>().is_ok()
            && from.parse::<u16>().is_ok() && to.parse::<u16>().is_ok())
}

/// Who is connected to a TCP port of this machine from elsewhere. A connection is in the list once
/// packets have gone both ways, until nothing is left of it.
pub fn connected(port: u16) -> BTreeSet<SocketAddr> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).filter_map(|line| peer(line, port)).collect()
}

/// The address that packets from here to another machine carry; nothing is sent.
pub fn address_towards(host: &str) -> Option<IpAddr> {
    let to = std::net::ToSocketAddrs::to_socket_addrs(&(host, 22)).ok()?.next()?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// The other end of one line of `/proc/net/tcp`, if it is a connection to the port that came up, also one that is just being closed.
fn peer(line: &str, port: u16) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (end(words.next()?)?, end(words.next()?)?, words.next()?);
    let from_here = remote.ip().is_loopback() || remote.ip() == local.ip();
    let came_up = matches!(state, "01" | "04" | "05" | "06" | "08" | "09" | "0B");
    (came_up && local.port() == port && !from_here).then_some(remote)
}

/// `0100007F:0016`: each group of 32 bits in the machine's own order.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let groups = (0..address.len() / 8).map(|n| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> =
        groups.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn connections_from_elsewhere_to_a_port() {
        let v4 =
            "   1: 0B00630A:0016 0100630A:D431 01 00000000:00000000 02:000AFC1C 00000000     0        0 1";
        assert_eq!(peer(v4, 22), Some("10.99.0.1:54321".parse().unwrap()));
        assert_eq!(peer(v4, 2222), None);
        assert_eq!(peer(&v4.replace(" 01 ", " 03 "), 22), None, "not answered yet");
        assert_eq!(peer(&v4.replace(" 01 ", " 0A "), 22), None, "one who listens");
        assert_eq!(peer(&v4.replace(" 01 ", " 08 "), 22), peer(v4, 22), "being closed");
        assert_eq!(peer(&v4.replace("0100630A", "0B00630A"), 22), None, "from the host to itself");
        let mapped = "   2: 0000000000000000FFFF00000B00630A:0016 0000000000000000FFFF00000100630A:D431 01 0";
        assert_eq!(peer(mapped, 22), Some("10.99.0.1:54321".parse().unwrap()));
        assert_eq!(peer("  sl  local_address rem_address   st", 22), None);
    }

    #[test]
    fn what_sshd_writes() {
        assert!(is_connection("10.99.0.1 54321 10.99.0.11 22"));
        assert!(is_connection("fd99::1 54321 fd99::b 22"));
        for other in ["", "10.99.0.1 54321 10.99.0.11", "x 1 y 2", "10.99.0.1 1 10.99.0.11 22 3"] {
            assert!(!is_connection(other), "{other}");
        }
    }
}

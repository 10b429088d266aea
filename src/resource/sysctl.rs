//! sysctl.d files: keys, values, and how a file of ours is written.

use crate::problem::Origin;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The first words of every sysctl.d file of ours; a file without them is foreign.
pub const HEADER: &str = "# Managed by kvmfw";

/// A sysctl key in its one canonical form: the path below `/proc/sys`, for example
/// `net/ipv4/conf/eth0.123/rp_filter`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SysctlKey(String);

impl SysctlKey {
    /// Reads a key as sysctl.d(5) does: if the first separator is a dot, dots and slashes swap
    /// meaning (`net.ipv4.conf.eth0/123.rp_filter`), else it is taken as a path.
    ///
    /// Errors: a lowercase fragment saying why it is no key (empty part, `..`, glob, control or
    /// other characters that no key has).
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(key) = text.strip_prefix('-') {
            return Err(format!(
                "write `{key}` and its value, or remove the line: a dash before a key is syntax of sysctl.d, \
                 where it ignores errors of the key, or excludes the key from a pattern"
            ));
        }
        let swaps = match text.find(['.', '/']) {
            Some(at) => text.as_bytes()[at] == b'.',
            None => return Err("a sysctl key has at least two parts, like `net.ipv4.ip_forward`".into()),
        };
        let path: String = if swaps {
            text.chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect()
        } else {
            text.to_owned()
        };
        if text.contains(['*', '?', '[']) {
            return Err("globs are not supported: name each key".into());
        }
        if !path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-@+".contains(c)) {
            return Err("contains a character that is not valid in a sysctl key".into());
        }
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err("has an empty part or `..`".into());
        }
        Ok(Self(path))
    }

    /// The path below `/proc/sys`.
    pub fn path(&self) -> &str {
        &self.0
    }

    /// The module that has to be loaded before the key exists, where that may happen after boot.
    pub fn module(&self) -> Option<&'static str> {
        if self.0.starts_with("net/bridge/") {
            Some("br_netfilter")
        } else if self.0.starts_with("net/netfilter/nf_conntrack") || self.0 == "net/nf_conntrack_max" {
            Some("nf_conntrack")
        } else {
            None
        }
    }
}

impl fmt::Display for SysctlKey {
    /// The dotted form that people know; a dot inside a part is written `/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let c = match c {
                '/' => '.',
                '.' => '/',
                c => c,
            };
            fmt::Write::write_char(f, c)?;
        }
        Ok(())
    }
}

/// One key of a file of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlEntry {
    /// The key.
    pub key: SysctlKey,
    /// The value as it is written, white space collapsed.
    pub value: String,
    /// Where it was declared.
    pub origin: Origin,
}

/// A whole file of ours in `/etc/sysctl.d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlFile {
    /// The name without `.conf`.
    pub name: String,
    /// The keys in the order they are written.
    pub entries: Vec<SysctlEntry>,
    /// Where the file was first declared.
    pub origin: Origin,
}

impl SysctlFile {
    /// The file's bytes.
    pub fn render(&self) -> String {
        let mut text = format!("{HEADER}: this file is replaced as a whole, edit the inventory instead.\n");
        for entry in &self.entries {
            text.push_str(&format!("{} = {}\n", entry.key, entry.value));
        }
        text
    }

    /// Where the file lies on a host.
    pub fn path(&self) -> String {
        format!("/etc/sysctl.d/{}.conf", self.name)
    }
}

/// A value as it is compared: the kernel separates by tabs whatever was written.
pub fn normal(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_separator_decides() {
        for (text, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.123/rp_filter", "net/ipv4/conf/eth0.123/rp_filter"),
            ("net.ipv4.conf.eth0/123.rp_filter", "net/ipv4/conf/eth0.123/rp_filter"),
        ] {
            let key = SysctlKey::parse(text).unwrap();
            assert_eq!(key.path(), path);
            assert_eq!(SysctlKey::parse(&key.to_string()).unwrap(), key);
        }
    }

    #[test]
    fn what_is_no_key() {
        for text in [
            "",
            "kernel",
            "net..x",
            "net/../x",
            "net.ipv4.*.x",
            "net.a b",
            "net.a\nb",
            "/net/x",
            "net.x;reboot",
            "-net.ipv4.ip_forward",
        ] {
            assert!(SysctlKey::parse(text).is_err(), "{text:?}");
        }
    }
}

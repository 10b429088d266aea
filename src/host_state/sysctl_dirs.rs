//! The sysctl.d folders of a host, and which file wins in either tool's order.

use crate::resource::sysctl::{HEADER, SysctlKey, normal};
use std::collections::BTreeMap;

/// The folders by precedence: a file of the same name in an earlier one hides it in a later one.
const FOLDERS: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// Who reads the folders at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlTool {
    /// systemd-sysctl: file names in order.
    Systemd,
    /// `sysctl --system` of procps: the same, then `/etc/sysctl.conf`.
    Procps,
}

/// A file with what it sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnmanagedFile {
    /// The first line, by which a file of ours is known.
    pub first_line: String,
    /// Where it points, if it is a symbolic link.
    pub link: Option<String>,
    /// Lines that set something: number and text.
    pub lines: Vec<(u32, String)>,
}

impl UnmanagedFile {
    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        self.first_line.starts_with(HEADER)
    }
}

/// The line that decides a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidingLine {
    /// The file.
    pub path: String,
    /// Its line.
    pub line: u32,
    /// The value, white space collapsed.
    pub value: String,
}

/// All files by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlDirs {
    /// The files.
    pub files: BTreeMap<String, UnmanagedFile>,
}

impl SysctlDirs {
    /// Reads the probe's section: `>PATH [TARGET]` for each file, `PATH:LINE:TEXT` for each line.
    pub fn parse(text: &str) -> Self {
        let mut files: BTreeMap<String, UnmanagedFile> = BTreeMap::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix('>') {
                let (path, link) = match head.split_once(' ') {
                    Some((path, link)) => (path, Some(link.to_owned())),
                    None => (head, None),
                };
                files.insert(path.to_owned(), UnmanagedFile { link, ..UnmanagedFile::default() });
                continue;
            }
            let mut parts = line.splitn(3, ':');
            let (Some(path), Some(number), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let (Some(file), Ok(number)) = (files.get_mut(path), number.parse()) else { continue };
            if number == 1 {
                file.first_line = text.to_owned();
            }
            if !text.trim_start().starts_with(['#', ';']) && !text.trim().is_empty() {
                file.lines.push((number, text.to_owned()));
            }
        }
        Self { files }
    }

    /// Who sets a key last, were the file at `without` not there (to see past one of ours).
    pub fn winner(&self, key: &SysctlKey, tool: SysctlTool, without: Option<&str>) -> Option<DecidingLine> {
        let mut winner = None;
        let mut explicit = false;
        for path in self.order(tool) {
            if Some(path.as_str()) == without {
                continue;
            }
            for (number, text) in &self.files[&path].lines {
                let Some((name, value)) = text.split_once('=') else { continue };
                let name = name.trim().trim_start_matches('-');
                let hit = match SysctlKey::parse(name) {
                    Ok(set) => set == *key,
                    Err(_) => !explicit && glob_matches(name, key),
                };
                if hit {
                    // A key named in full beats every glob, in both tools (procps 4.0.2: measured).
                    explicit |= !name.contains(['*', '?', '[']);
                    winner = Some(DecidingLine { path: path.clone(), line: *number, value: normal(value) });
                }
            }
        }
        winner
    }

    /// The paths in the order in which a tool reads them.
    fn order(&self, tool: SysctlTool) -> Vec<String> {
        let mut by_name: BTreeMap<&str, &str> = BTreeMap::new();
        for folder in FOLDERS {
            for path in self.files.keys() {
                if let Some((dir, name)) = path.rsplit_once('/')
                    && dir == folder
                {
                    by_name.entry(name).or_insert(path);
                }
            }
        }
        let mut order: Vec<String> = by_name.into_values().map(str::to_owned).collect();
        if tool == SysctlTool::Procps && self.files.contains_key("/etc/sysctl.conf") {
            order.push("/etc/sysctl.conf".to_owned());
        }
        order
    }
}

/// A glob of sysctl.d in either notation.
fn glob_matches(pattern: &str, key: &SysctlKey) -> bool {
    if !pattern.contains(['*', '?', '[']) {
        return false;
    }
    let path = if pattern.find(['.', '/']).is_some_and(|at| pattern.as_bytes()[at] == b'.') {
        pattern.replace('.', "/")
    } else {
        pattern.to_owned()
    };
    globset::GlobBuilder::new(&path)
        .literal_separator(true)
        .build()
        .is_ok_and(|glob| glob.compile_matcher().is_match(key.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SysctlKey {
        SysctlKey::parse(text).unwrap()
    }

    #[test]
    fn both_orders() {
        let dirs = SysctlDirs::parse(
            ">/etc/sysctl.conf\n>/etc/sysctl.d/99-zz.conf\n>/usr/lib/sysctl.d/50-a.conf\n>/etc/sysctl.d/50-a.conf\n\
             /etc/sysctl.conf:3:net.ipv4.ip_forward=1\n/etc/sysctl.d/99-zz.conf:1:net.ipv4.ip_forward = 2\n\
             /usr/lib/sysctl.d/50-a.conf:1:net.ipv4.conf.all.rp_filter = 9\n/etc/sysctl.d/50-a.conf:1:# nothing\n",
        );
        let key_ = key("net.ipv4.ip_forward");
        assert_eq!(dirs.winner(&key_, SysctlTool::Systemd, None).unwrap().value, "2");
        assert_eq!(dirs.winner(&key_, SysctlTool::Procps, None).unwrap().path, "/etc/sysctl.conf");
        assert_eq!(dirs.winner(&key_, SysctlTool::Systemd, Some("/etc/sysctl.d/99-zz.conf")), None);
        assert_eq!(
            dirs.winner(&key("net.ipv4.conf.all.rp_filter"), SysctlTool::Systemd, None),
            None,
            "masked by name"
        );
    }

    #[test]
    fn explicit_beats_glob() {
        let dirs = SysctlDirs::parse(
            ">/etc/sysctl.d/10-x.conf\n>/etc/sysctl.d/20-g.conf\n/etc/sysctl.d/10-x.conf:1:net.ipv4.conf.all.rp_filter=1\n\
             /etc/sysctl.d/20-g.conf:1:net.ipv4.conf.*.rp_filter=2\n",
        );
        for tool in [SysctlTool::Systemd, SysctlTool::Procps] {
            let value = |name| dirs.winner(&key(name), tool, None).unwrap().value;
            assert_eq!(value("net.ipv4.conf.all.rp_filter"), "1");
            assert_eq!(value("net.ipv4.conf.eth0.rp_filter"), "2");
        }
    }
}

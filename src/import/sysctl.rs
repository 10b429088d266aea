//! Files in sysctl.d that are not of kvmfw.

use super::comment;
use crate::host_state::{LiveValue, Observed, SysctlTool};
use crate::inventory::quoted;
use crate::resource::sysctl::{SysctlKey, normal};
use std::collections::BTreeSet;
use std::fmt::Write as _;

const FOLDER: &str = "/etc/sysctl.d/";

/// The keys whose live values [`super::yaml`] wants, as paths below `/proc/sys`, one on a line.
pub fn keys(observed: &Observed) -> String {
    let mut all: BTreeSet<SysctlKey> = BTreeSet::new();
    for (_, lines) in files(observed) {
        all.extend(lines.into_iter().filter_map(|(key, _)| key.ok()));
    }
    all.iter().map(|key| format!("{}\n", key.path())).collect()
}

/// A line of a file: its key, or how a key is written that is none, and the value.
type FileSetting<'a> = (Result<SysctlKey, String>, &'a str);

/// The foreign files of administrators by path: those below /usr belong to packages.
fn files(observed: &Observed) -> Vec<(&str, Vec<FileSetting<'_>>)> {
    let dirs = &observed.sysctl_dirs;
    let administrators = |path: &str| path.starts_with(FOLDER) || path == "/etc/sysctl.conf";
    let unmanaged = dirs.files.iter().filter(|(path, file)| administrators(path) && !file.is_ours());
    // Debian's link to /etc/sysctl.conf, which is read as itself.
    let own =
        unmanaged.filter(|(_, file)| file.link.as_deref().is_none_or(|to| !to.ends_with("sysctl.conf")));
    own.map(|(path, file)| {
        let read = |(_, line): &'_ (u32, String)| -> Option<(usize, usize)> {
            let (name, _) = line.split_once('=')?;
            Some((name.len(), line.len()))
        };
        let lines = file.lines.iter().filter_map(|line| {
            let (end, _) = read(line)?;
            let name = line.1[..end].trim().trim_start_matches('-');
            Some((SysctlKey::parse(name).map_err(|_| name.to_owned()), line.1[end + 1..].trim()))
        });
        (path.as_str(), lines.collect())
    })
    .collect()
}

/// `sysctl:`.
pub(super) fn write(observed: &Observed, text: &mut String) {
    let mut body = String::new();
    for (path, lines) in files(observed).into_iter().filter(|(_, lines)| !lines.is_empty()) {
        file(path, &lines, observed, &mut body);
    }
    if body.lines().any(|line| !line.trim_start().starts_with('#')) {
        text.push_str("    sysctl:\n");
    }
    text.push_str(&body);
}

fn file(path: &str, lines: &[FileSetting<'_>], observed: &Observed, text: &mut String) {
    if let Some(what) = lines.iter().find_map(|(key, _)| key.as_ref().err()) {
        comment(
            6,
            &format!("Left out: {path}: `{what}` is a pattern, and an inventory names each key"),
            text,
        );
        return;
    }
    let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".conf");
    let mut name = stem.to_owned();
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-+".contains(c);
    if !stem.chars().all(word) || stem.starts_with('.') || stem.is_empty() {
        comment(6, &format!("Left out: {path}: an inventory cannot have a file of that name"), text);
        return;
    }
    if !path.starts_with(FOLDER) {
        // Read last by procps and not at all by systemd; what is said twice alike does no harm.
        name = "99-sysctl-conf".to_owned();
        comment(6, &format!("{path} stays; remove its lines once this file has the same keys"), text);
    } else {
        comment(6, path, text);
    }
    let mut body = String::new();
    let mut seen: BTreeSet<&SysctlKey> = BTreeSet::new();
    for (key, value) in lines.iter().rev().filter_map(|(key, value)| Some((key.as_ref().ok()?, *value))) {
        if !seen.insert(key) {
            continue;
        }
        let line = entry(path, key, value, observed);
        body.insert_str(0, &line);
    }
    let indent = if body.lines().all(|line| line.trim_start().starts_with('#')) { " { }" } else { "" };
    let _ = write!(text, "      {}:{indent}\n{body}", quoted(&name));
}

/// One key: what is live counts, and where two files set it, the later one has it.
fn entry(path: &str, key: &SysctlKey, value: &str, observed: &Observed) -> String {
    let mut text = String::new();
    let winner = [SysctlTool::Procps, SysctlTool::Systemd]
        .into_iter()
        .filter_map(|tool| observed.sysctl_dirs.winner(key, tool, None))
        .map(|winner| winner.path)
        .find(|winner| files(observed).iter().any(|(path, _)| path == winner));
    if let Some(winner) = winner.filter(|winner| winner != path) {
        comment(8, &format!("{key} = {value}: {winner} is read later and also sets the key"), &mut text);
        return text;
    }
    let said = normal(value);
    let live = match observed.sysctl.get(key.path()) {
        Some(LiveValue::Value(live)) => normal(live),
        _ => said.clone(),
    };
    let usable = |value: &str| !value.is_empty() && value.chars().all(|c| (' '..='~').contains(&c));
    if !usable(&live) {
        comment(8, &format!("{key} = {value}: an inventory cannot have such a value"), &mut text);
        return text;
    }
    if live != said {
        comment(8, &format!("live value; the file has {said}"), &mut text);
    }
    let shown = if live.parse::<u32>().is_ok_and(|n| n.to_string() == live) { live } else { quoted(&live) };
    let _ = writeln!(text, "        {}: {shown}", key_text(key));
    text
}

/// A key in YAML: dots and slashes need no quotes, other characters might.
fn key_text(key: &SysctlKey) -> String {
    let text = key.to_string();
    let bare = text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
    if bare { text } else { quoted(&text) }
}

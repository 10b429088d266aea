//! sysctl.d files and live values.

use super::diff::DesiredLine;
use super::{Change, ChangeAction, Diff, GenerationManifest, key_effects};
use crate::host_state::{LiveValue, Observed, SysctlDirs, SysctlTool, UnmanagedFile};
use crate::problem::{LintCode, Warning, WarningMessage, closest};
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::resource::iptables::{DeclaredRules, IpFamily};
use crate::resource::sysctl::{SysctlEntry, SysctlFile, SysctlKey, normal};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that KVM hosts set, as suggestions for a misspelt one. Keys of one host are not known as a whole, because a probe
/// reads only the keys that the inventory names.
const COMMON_KEYS: [&str; 22] = [
    "net.ipv4.ip_forward",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.arp_announce",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.all.proxy_arp",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.accept_redirects",
    "net.ipv4.conf.all.send_redirects",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv6.conf.all.accept_ra",
    "net.ipv6.conf.all.disable_ipv6",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.disable_ipv6",
    "net.core.somaxconn",
    "kernel.panic",
    "kernel.sysrq",
    "vm.overcommit_memory",
    "vm.swappiness",
    "vm.max_map_count",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
];

/// What a plan does about sysctl.
#[derive(Default)]
pub(super) struct SysctlPlan {
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// Why a key cannot be what is wanted.
    pub stuck: Vec<String>,
    /// Files of those names that are not ours.
    pub unmanaged: Vec<ClashingFile>,
    /// Names of files of others that become ours.
    pub adopted: Vec<String>,
    /// `path=value` to write before rules change: what opens.
    pub open: Vec<String>,
    /// `path=value` to write after rules changed: what closes.
    pub close: Vec<String>,
    /// Every key that is touched.
    pub keys: BTreeSet<String>,
}

/// A file of others with the name of one of ours.
pub(super) struct ClashingFile {
    pub path: String,
    /// Why it cannot be taken over.
    why_not: Option<String>,
}

impl ClashingFile {
    /// The sentence for the user.
    pub(super) fn refusal(&self, adopt: bool) -> String {
        let path = &self.path;
        match &self.why_not {
            Some(why) if adopt => format!("{path} is unmanaged and cannot be adopted: {why}"),
            _ => format!(
                "{path} exists and is unmanaged; declare another file name, move that file away, or adopt it \
                 with --adopt"
            ),
        }
    }
}

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
    adopt: bool,
) -> SysctlPlan {
    let mut plan = SysctlPlan::default();
    let wanted: BTreeSet<&str> =
        desired.sysctl.values().flat_map(|f| f.entries.iter().map(|e| e.key.path())).collect();
    let mut dirs = files_of_others(desired, observed, record);
    for file in desired.sysctl.values() {
        if let Some(there) = observed.sysctl_dirs.files.get(&file.path()).filter(|f| !f.is_ours()) {
            let why_not = why_not_adopted(there, &wanted);
            if !adopt || why_not.is_some() {
                plan.unmanaged.push(ClashingFile { path: file.path(), why_not });
                continue;
            }
            plan.adopted.push(format!("{}.conf", file.name));
        }
        declared(file, (observed, &mut dirs), record.sysctl.get(&file.name), &mut plan);
    }
    for file in record.sysctl.values() {
        removed(file, desired.sysctl.get(&file.name), &wanted, observed, &mut plan);
    }
    accounting(desired, observed, record, &wanted, &mut plan);
    in_order(&mut plan.close);
    plan
}

/// A key that the kernel itself sets when a rule of `connbytes` is loaded, and leaves so.
fn accounting(
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
    wanted: &BTreeSet<&str>,
    plan: &mut SysctlPlan,
) {
    const KEY: &str = "net/netfilter/nf_conntrack_acct";
    let counts = |rules: &BTreeMap<IpFamily, DeclaredRules>| {
        let tables = rules.values().flat_map(|rules| rules.tables.values());
        let mut rules = tables.flat_map(|table| table.chains.values()).flat_map(|chain| chain.rules.iter());
        rules.any(|rule| rule.text.contains("-m connbytes"))
    };
    let (before, now) = (counts(&record.rules), counts(&desired.rules));
    if wanted.contains(KEY) || !before && !now {
        return;
    }
    plan.keys.insert(KEY.to_owned());
    if let (false, Some(back), Some(LiveValue::Value(live))) =
        (now, observed.state.original_sysctl.get(KEY), observed.sysctl.get(KEY))
        && normal(live) != normal(back)
    {
        plan.close.push(format!("{KEY}={}", normal(back)));
    }
}

/// A file is taken over when all that it sets is declared, here or in another file of ours: nothing is lost.
fn why_not_adopted(there: &UnmanagedFile, wanted: &BTreeSet<&str>) -> Option<String> {
    if let Some(to) = &there.link {
        return Some(format!("it is a symbolic link to {to}"));
    }
    let lost = |(number, line): &(u32, String)| {
        let name = line.split('=').next().unwrap_or_default().trim().trim_start_matches('-');
        let declared = SysctlKey::parse(name).is_ok_and(|key| wanted.contains(key.path()));
        (!declared).then(|| format!("line {number} sets `{name}`, which the inventory does not declare"))
    };
    there.lines.iter().find_map(lost)
}

fn declared(
    file: &SysctlFile,
    (observed, dirs): (&Observed, &mut SysctlDirs),
    before: Option<&SysctlFile>,
    plan: &mut SysctlPlan,
) {
    let there = observed.sysctl_dirs.files.get(&file.path());
    let by_others = there.is_some_and(|f| !f.is_ours());
    let in_file: BTreeMap<SysctlKey, String> = there
        .into_iter()
        .flat_map(|f| &f.lines)
        .filter_map(|(_, line)| {
            let (key, value) = line.split_once('=')?;
            Some((SysctlKey::parse(key.trim().trim_start_matches('-')).ok()?, normal(value)))
        })
        .collect();
    let mut old = Vec::new();
    let mut new: Vec<DesiredLine> = Vec::new();
    let mut notes = BTreeMap::new();
    for entry in &file.entries {
        let key = &entry.key;
        plan.keys.insert(key.path().to_owned());
        let wanted = normal(&entry.value);
        let live = observed.sysctl.get(key.path());
        let live_value = match live {
            Some(LiveValue::Value(value)) => Some(normal(value)),
            _ => None,
        };
        let kept = in_file.get(key);
        // What the kernel takes no more before the next boot is in effect then.
        let stays = live_value.as_ref().filter(|live| key_effects::stays(key, live, &wanted)).cloned();
        if let Some(live) = &stays {
            plan.warnings.push(Warning::new(
                LintCode::OneWayKey,
                format!("{key} stays {live} until the next boot, and is {wanted} after it"),
                Some(entry.origin.clone()),
            ));
        }
        let live_value = live_value.filter(|_| stays.is_none());
        let holds = kept == Some(&wanted) && live_value.as_ref().is_none_or(|v| *v == wanted);
        let line = format!("{key} = {wanted}");
        if holds {
            old.push(line.clone());
        } else if let Some(value) = live_value.as_ref().filter(|v| **v != wanted) {
            old.push(format!("{key} = {value}"));
        } else if let Some(value) = kept.filter(|v| **v != wanted) {
            old.push(format!("{key} = {value}"));
        }
        if !matches!(live, Some(LiveValue::Value(_))) {
            let why = match key.module() {
                Some(module) => format!("in effect when {module} is loaded"),
                None if live == Some(&LiveValue::Unreadable) => "can only be written".to_owned(),
                None => absent(key, observed),
            };
            if live == Some(&LiveValue::Unreadable) {
                plan.warnings.push(Warning::new(
                    LintCode::WriteOnlyKey,
                    WarningMessage::new(format!(
                        "{key} can be written but not read, so it is an action and not a \
                         setting; it is only written to {}, and runs at every boot",
                        file.path()
                    ))
                    .fix("remove the key, or run the action once by hand"),
                    Some(entry.origin.clone()),
                ));
            } else if key.module().is_none() {
                let message = match absent_link(key, observed) {
                    Some(link) => format!(
                        "{key} does not exist yet, because the host has no link {link}; it is only written to \
                         {}, which is read at boot, and is not set when the link appears later",
                        file.path()
                    ),
                    None => {
                        let near = closest(&key.to_string(), COMMON_KEYS);
                        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                        format!(
                            "{key} does not exist on this kernel; it is only written to {}{near}",
                            file.path()
                        )
                    }
                };
                plan.warnings.push(Warning::new(LintCode::NoSuchKey, message, Some(entry.origin.clone())));
            }
            notes.insert(line.clone(), why);
        }
        new.push((line, Some(entry.origin.clone())));
        if let Some(value) = live_value.as_ref().filter(|v| **v != wanted)
            && observed.read_only.contains(key.path())
        {
            plan.stuck.push(format!(
                "{key} is read-only on this host and is `{value}`, not `{wanted}`; remove it from the \
                 inventory ({})",
                entry.origin
            ));
        } else if live_value.as_ref().is_some_and(|v| *v != wanted) {
            let write = format!("{}={wanted}", key.path());
            if opens(key, &wanted) { plan.open.push(write) } else { plan.close.push(write) }
        }
        overridden(file, key, &wanted, entry, dirs, plan);
    }
    dirs.files.entry(file.path()).or_default().lines.clear();
    // Keys that the file has and that are wanted no more.
    for (key, value) in &in_file {
        if !file.entries.iter().any(|e| e.key == *key) {
            old.push(format!("{key} = {value}"));
        }
    }
    let mut diff = Diff::compute(&old, &new);
    for line in std::sync::Arc::make_mut(&mut diff.lines) {
        if line.sign == '+'
            && let Some(note) = notes.get(&line.text)
        {
            line.text = format!("{}   ({note})", line.text);
        }
    }
    if by_others {
        let text = format!("{}, so far unmanaged, is adopted; an undo restores it", file.path());
        diff.push(super::DiffLine { sign: '+', text, origin: Some(file.origin.clone()) });
    }
    let misplaced = there.is_none() || there.is_some_and(|f| f.lines.len() != file.entries.len());
    if diff.is_empty() && !misplaced {
        return;
    }
    let action = if there.is_none() && before.is_none() { ChangeAction::Add } else { ChangeAction::Change };
    if there.is_none() && diff.is_empty() {
        diff.push(super::DiffLine { sign: '+', text: file.path(), origin: Some(file.origin.clone()) });
    }
    plan.changes.push(Change {
        kind: ResourceKind::Sysctl,
        resource: file.name.clone(),
        action,
        diff,
        origin: vec![file.origin.clone()],
        risks: Vec::new(),
    });
}

/// The files of `sysctl.d` that the plan leaves, those of ours without lines: no two of them have the same key.
fn files_of_others(desired: &Desired, observed: &Observed, record: &GenerationManifest) -> SysctlDirs {
    let mut dirs = observed.sysctl_dirs.clone();
    for path in record.sysctl.values().map(SysctlFile::path) {
        if dirs.files.get(&path).is_some_and(UnmanagedFile::is_ours) {
            dirs.files.remove(&path);
        }
    }
    for file in desired.sysctl.values() {
        // It is there, because it hides files of its name in other folders.
        dirs.files.entry(file.path()).or_default().lines.clear();
    }
    dirs
}

/// Whether another file would win over ours, in either tool's order.
fn overridden(
    file: &SysctlFile,
    key: &SysctlKey,
    wanted: &str,
    entry: &SysctlEntry,
    dirs: &mut SysctlDirs,
    plan: &mut SysctlPlan,
) {
    // Of the file itself only this line: its other keys decide nothing here.
    dirs.files.entry(file.path()).or_default().lines = vec![(1, format!("{key} = {wanted}"))];
    for tool in [SysctlTool::Systemd, SysctlTool::Procps] {
        if let Some(winner) = dirs.winner(key, tool, None)
            && winner.path != file.path()
            && winner.value != wanted
        {
            let who = match tool {
                SysctlTool::Systemd => "systemd-sysctl",
                SysctlTool::Procps => "sysctl --system",
            };
            plan.warnings.push(Warning::new(
                LintCode::SysctlOverridden,
                WarningMessage::new(format!(
                    "{}:{} sets {key} to {} and is read after {} by {who}",
                    winner.path,
                    winner.line,
                    winner.value,
                    file.path()
                ))
                .fix("remove that line, or give the file a name that sorts later"),
                Some(entry.origin.clone()),
            ));
            break;
        }
    }
}

/// A file, or keys of one, that are wanted no more: live keys go back to what the remaining files
/// say, else to what they were before us.
fn removed(
    before: &SysctlFile,
    now: Option<&SysctlFile>,
    wanted: &BTreeSet<&str>,
    observed: &Observed,
    plan: &mut SysctlPlan,
) {
    let mut old = Vec::new();
    let mut new: Vec<DesiredLine> = Vec::new();
    for entry in &before.entries {
        let key = &entry.key;
        if wanted.contains(key.path()) {
            continue;
        }
        plan.keys.insert(key.path().to_owned());
        let back = given_back(key, before, observed);
        old.push(format!("{key} = {}", entry.value));
        if let (Some(back), Some(LiveValue::Value(live))) = (back, observed.sysctl.get(key.path())) {
            if key_effects::stays(key, live, &back) {
                new.push((
                    format!("{key} = {back}   (after the next boot; until then it stays {live})"),
                    None,
                ));
                continue;
            }
            if normal(live) != back {
                let write = format!("{}={back}", key.path());
                if opens(key, &back) { plan.open.push(write) } else { plan.close.push(write) }
            }
            new.push((format!("{key} = {back}   (live value, as before)"), None));
        }
    }
    if now.is_some() {
        // The file stays; its own diff shows the line that goes, this adds the live value.
        return;
    }
    plan.changes.push(Change {
        kind: ResourceKind::Sysctl,
        resource: before.name.clone(),
        action: ChangeAction::Remove,
        diff: Diff::compute(&old, &new),
        origin: vec![before.origin.clone()],
        risks: Vec::new(),
    });
}

/// The value that a key of a file of ours gets once it is no longer wanted: what the remaining files say, else what it
/// was before us. `None`: it stays as it is.
fn given_back(key: &SysctlKey, before: &SysctlFile, observed: &Observed) -> Option<String> {
    let stated = observed.sysctl_dirs.winner(key, SysctlTool::Systemd, Some(&before.path())).map(|w| w.value);
    stated.or_else(|| observed.state.original_sysctl.get(key.path()).map(|v| normal(v)))
}

/// Keys that the generation that boots wants and the inventory no longer states, with the value that each gets.
pub(super) fn returned(
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
) -> BTreeMap<SysctlKey, Option<String>> {
    let wanted: BTreeSet<&SysctlKey> =
        desired.sysctl.values().flat_map(|f| f.entries.iter().map(|e| &e.key)).collect();
    let of_file = |file: &SysctlFile| {
        let gone = file.entries.iter().map(|entry| &entry.key).filter(|key| !wanted.contains(key));
        gone.map(|key| (key.clone(), given_back(key, file, observed))).collect::<Vec<_>>()
    };
    record.sysctl.values().flat_map(of_file).collect()
}

/// What a file of others sets a key to, were those of the generation that boots not there.
pub(super) fn stated_by_others(
    key: &SysctlKey,
    observed: &Observed,
    record: &GenerationManifest,
) -> Option<String> {
    let ours = record.sysctl.values().find(|file| file.entries.iter().any(|entry| entry.key == *key));
    let path = ours.map(SysctlFile::path);
    observed.sysctl_dirs.winner(key, SysctlTool::Systemd, path.as_deref()).map(|winner| winner.value)
}

/// The link that a key is of and that the host does not have.
fn absent_link<'a>(key: &'a SysctlKey, observed: &Observed) -> Option<&'a str> {
    let parts: Vec<&str> = key.path().split('/').collect();
    let [_, "ipv4" | "ipv6", "conf" | "neigh", link, _] = parts[..] else { return None };
    (!matches!(link, "all" | "default") && !observed.links.by_name.contains_key(link)).then_some(link)
}

/// Why a key is not there.
fn absent(key: &SysctlKey, observed: &Observed) -> String {
    absent_link(key, observed).map_or_else(
        || "no such key on this host".to_owned(),
        |link| format!("no link {link} now; set at boot if the link exists then"),
    )
}

/// What a host that forwards takes no more is set before it forwards: the kernel looks at it in that moment.
fn in_order(lines: &mut [String]) {
    lines.sort_by_key(|line| {
        let path = line.split('=').next().unwrap_or_default();
        path.ends_with("/forwarding") || path.ends_with("/ip_forward")
    });
}

/// What lets more traffic pass is written before the rules, everything else after them.
fn opens(key: &SysctlKey, value: &str) -> bool {
    key.path().starts_with("net/bridge/bridge-nf-call-") && value == "0"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel looks at `accept_ra` in the moment in which forwarding begins.
    #[test]
    fn forwarding_comes_after_what_it_depends_on() {
        let mut lines =
            ["net/ipv6/conf/all/forwarding=1", "net/ipv6/conf/eth0/accept_ra=2"].map(str::to_owned);
        in_order(&mut lines);
        assert_eq!(lines[0], "net/ipv6/conf/eth0/accept_ra=2");
    }
}

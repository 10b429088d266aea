//! What sysctl keys do beside having a value: one table, and what a plan that writes them says or refuses.

use super::lints::answers_by_advertisement;
use super::sysctl::SysctlPlan;
use super::{ChangeRisk, GenerationManifest, HostAfter, HostPlan, Refusal};
use crate::host_state::{HostLink, Observed};
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::resource::sysctl::SysctlKey;

/// What writing a key does beside changing its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteEffect {
    /// The kernel takes only higher values until the next boot.
    Rises,
    /// The kernel takes only lower values until the next boot; below zero is no limit.
    Falls,
    /// Once it has this value it keeps it until the next boot.
    Sticks(i64),
    /// At 1 the IPv6 addresses and routes of the link go, or those of all links.
    StopsIpv6,
    /// At 1 default routes by router advertisement go.
    Forwards,
    /// At 0 nothing that routers announce is renewed.
    Advertised,
    /// At 8 the host answers no ARP request.
    HidesAddresses,
    /// Links get it when they are made, and keep it.
    Inherited,
    /// Below what is in use the host can start no process, or not what a dry run needs.
    Limits(LimitUse),
}

/// What is in use of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LimitUse {
    /// Processes and threads.
    Threads,
    /// Files.
    Files,
    /// This many at least, whatever is in use.
    AtLeast(u64),
    /// Memory that was promised.
    Memory,
    /// Memory that is free, which the key takes away in KiB.
    FreeMemory,
    /// Memory that is free, which the key takes away in huge pages.
    HugePages,
    /// Connections that are tracked.
    Connections,
    /// Terminals.
    Terminals,
}

/// Keys, where `*` is one part, with what they do.
const TABLE: [(&str, WriteEffect); 36] = [
    ("kernel/unprivileged_bpf_disabled", WriteEffect::Sticks(1)),
    ("kernel/kexec_load_disabled", WriteEffect::Rises),
    ("kernel/modules_disabled", WriteEffect::Rises),
    ("kernel/yama/ptrace_scope", WriteEffect::Sticks(3)),
    ("kernel/kexec_load_limit_panic", WriteEffect::Falls),
    ("kernel/kexec_load_limit_reboot", WriteEffect::Falls),
    ("kernel/loadpin/enforce", WriteEffect::Rises),
    ("net/ipv6/conf/*/disable_ipv6", WriteEffect::StopsIpv6),
    ("net/ipv6/conf/*/forwarding", WriteEffect::Forwards),
    ("net/ipv6/conf/*/accept_ra", WriteEffect::Advertised),
    ("net/ipv6/conf/*/accept_ra_defrtr", WriteEffect::Advertised),
    ("net/ipv6/conf/*/autoconf", WriteEffect::Advertised),
    ("net/ipv4/conf/*/arp_ignore", WriteEffect::HidesAddresses),
    ("net/ipv6/conf/default/*", WriteEffect::Inherited),
    // The kernel notes on the link that the key was set, and gives it no later value of `default`.
    ("net/ipv4/conf/default/*", WriteEffect::Inherited),
    ("net/ipv6/neigh/default/*", WriteEffect::Inherited),
    ("net/ipv4/neigh/default/*", WriteEffect::Inherited),
    // With fewer neighbours than a rack has, the entry of the gateway finds no place.
    ("net/ipv4/neigh/default/gc_thresh3", WriteEffect::Limits(LimitUse::AtLeast(128))),
    ("net/ipv6/neigh/default/gc_thresh3", WriteEffect::Limits(LimitUse::AtLeast(128))),
    ("net/netfilter/nf_conntrack_max", WriteEffect::Limits(LimitUse::Connections)),
    ("net/nf_conntrack_max", WriteEffect::Limits(LimitUse::Connections)),
    ("kernel/pty/max", WriteEffect::Limits(LimitUse::Terminals)),
    ("kernel/threads-max", WriteEffect::Limits(LimitUse::Threads)),
    ("kernel/pid_max", WriteEffect::Limits(LimitUse::Threads)),
    ("fs/file-max", WriteEffect::Limits(LimitUse::Files)),
    // systemd gives its services up to this many.
    ("fs/nr_open", WriteEffect::Limits(LimitUse::AtLeast(524_288))),
    ("fs/mount-max", WriteEffect::Limits(LimitUse::AtLeast(4096))),
    ("user/max_net_namespaces", WriteEffect::Limits(LimitUse::AtLeast(64))),
    ("user/max_mnt_namespaces", WriteEffect::Limits(LimitUse::AtLeast(64))),
    ("user/max_pid_namespaces", WriteEffect::Limits(LimitUse::AtLeast(64))),
    // Shared libraries alone are some dozens in each process.
    ("vm/max_map_count", WriteEffect::Limits(LimitUse::AtLeast(4096))),
    ("vm/min_free_kbytes", WriteEffect::Limits(LimitUse::FreeMemory)),
    ("vm/nr_hugepages", WriteEffect::Limits(LimitUse::HugePages)),
    ("vm/nr_hugepages_mempolicy", WriteEffect::Limits(LimitUse::HugePages)),
    ("vm/overcommit_memory", WriteEffect::Limits(LimitUse::Memory)),
    ("vm/overcommit_*", WriteEffect::Limits(LimitUse::Memory)),
];

fn effects(path: &str) -> impl Iterator<Item = WriteEffect> {
    TABLE.iter().filter(move |(pattern, _)| fits(pattern, path)).map(|(_, effect)| *effect)
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), parts.next()) {
            (None, None) => return true,
            (Some(one), Some(part))
                if one.strip_suffix('*').map_or(one == part, |head| part.starts_with(head)) => {}
            _ => return false,
        }
    }
}

/// Whether the kernel would refuse to set a key from one value to the other before the next boot.
pub(super) fn stays(key: &SysctlKey, from: &str, to: &str) -> bool {
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let (Some(from), Some(to)) = (number(from), number(to)) else { return false };
    let limit = |value: i64| if value < 0 { i64::MAX } else { value };
    from != to
        && effects(key.path()).any(|effect| match effect {
            WriteEffect::Rises => to < from,
            WriteEffect::Falls => limit(to) > limit(from),
            WriteEffect::Sticks(value) => from == value,
            _ => false,
        })
}

/// Keys that stand beside those which links inherit, and hold for the table of neighbours.
fn is_of_all_links(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("gc_thresh") || name == "gc_interval")
}

/// A key that the plan writes.
struct KeyWrite<'a> {
    key: SysctlKey,
    value: &'a str,
    live: Option<String>,
    origin: Option<Origin>,
}

/// Keys that have to be asked for so that the plan can judge one.
pub(super) fn asks(path: &str) -> Option<&'static str> {
    effects(path).find_map(|effect| match effect {
        WriteEffect::Limits(LimitUse::Files) => Some("fs/file-nr"),
        WriteEffect::Limits(LimitUse::Connections) => Some("net/netfilter/nf_conntrack_count"),
        WriteEffect::Limits(LimitUse::Terminals) => Some("kernel/pty/nr"),
        _ => None,
    })
}

/// Says what the keys that are written do beside it, marks their changes, and refuses what the host would not survive.
pub(super) fn judge(
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
    sysctl: &SysctlPlan,
    plan: &mut HostPlan,
) -> Option<Refusal> {
    let will_be = HostAfter::planned(desired, observed, record);
    let entries = || desired.sysctl.values().flat_map(|file| &file.entries);
    let mut refusal = None;
    for (path, value) in sysctl.open.iter().chain(&sysctl.close).filter_map(|line| line.split_once('=')) {
        let Ok(key) = SysctlKey::parse(path) else { continue };
        let origin = entries().find(|entry| entry.key == key).map(|entry| entry.origin.clone());
        let live = will_be.live_key(path);
        let write = KeyWrite { key, value, live, origin };
        for effect in effects(path) {
            if let WriteEffect::Limits(what) = effect {
                refusal = refusal.or_else(|| write.exhausts(what, observed, &will_be));
            } else {
                write.says(effect, observed, &will_be, plan);
            }
        }
    }
    refusal
}

impl KeyWrite<'_> {
    /// The part of the key that names the link: `all`, `default` or a link.
    fn link(&self) -> &str {
        self.key.path().split('/').nth(3).unwrap_or_default()
    }

    fn says(&self, effect: WriteEffect, observed: &Observed, will_be: &HostAfter<'_>, plan: &mut HostPlan) {
        let (key, value) = (&self.key, self.value);
        let back = self.live.as_deref().unwrap_or_default();
        match effect {
            WriteEffect::Rises | WriteEffect::Falls | WriteEffect::Sticks(_) if stays(key, value, back) => {
                let text = format!(
                    "{key} = {value} is one-way: neither a rollback nor an undo can revert it before the next \
                     boot"
                );
                self.warn(LintCode::OneWayKey, plan, text, Some(ChangeRisk::OneWay));
            }
            // Stated no more: it goes back to what it was.
            WriteEffect::Inherited if self.origin.is_none() && !is_of_all_links(key.path()) => {
                let text = WarningMessage::new(format!(
                    "{key} goes back to {value}, but links created while it was {back} \
                     keep the inherited value"
                ))
                .fix("set the key for each of these links that should not have it");
                self.warn(LintCode::InheritedKey, plan, text, Some(ChangeRisk::OneWay));
            }
            WriteEffect::Inherited if !is_of_all_links(key.path()) => {
                let text = format!(
                    "{key} = {value} is inherited by links created from now on, which keep it after a \
                     rollback or an undo"
                );
                self.warn(LintCode::InheritedKey, plan, text, Some(ChangeRisk::OneWay));
            }
            WriteEffect::StopsIpv6 if value != "0" && self.link() != "default" => {
                self.stops_ipv6(observed, plan)
            }
            WriteEffect::Forwards if value != "0" => {
                let gone = self.by_advertisement(observed, will_be);
                self.lockout(
                    plan,
                    gone.map(|link| format!("the IPv6 default route on {link}, which SSH uses")),
                );
            }
            WriteEffect::Advertised if value == "0" => {
                let gone = self.not_renewed(observed, will_be);
                self.lockout(plan, gone);
            }
            WriteEffect::HidesAddresses if value == "8" => {
                let ssh = observed.facts.ssh.as_ref().filter(|ssh| ssh.server.is_ipv4());
                let link = ssh.and_then(|ssh| holder(observed, &ssh.server.to_string()));
                let link = link.filter(|link| self.link() == "all" || self.link() == link.name);
                self.lockout(plan, link.map(|_| "every answer to ARP, and with it SSH".to_owned()));
            }
            _ => {}
        }
    }

    fn stops_ipv6(&self, observed: &Observed, plan: &mut HostPlan) {
        let of = |link: &&HostLink| self.link() == "all" || self.link() == link.name;
        let links: Vec<&HostLink> = observed.links.by_name.values().filter(of).collect();
        let global =
            |link: &&&HostLink| link.addresses.iter().any(|a| a.family == "inet6" && a.scope == "global");
        let names: Vec<&str> = links.iter().filter(global).map(|link| link.name.as_str()).collect();
        if !names.is_empty() {
            let text = format!(
                "{} = {} removes all IPv6 addresses and routes of {}; a rollback restores them, an undo \
                 leaves that to the network configuration of the host or to a boot",
                self.key,
                self.value,
                names.join(", ")
            );
            self.warn(LintCode::Ipv6Stops, plan, text, Some(ChangeRisk::OneWay));
        }
        let server = observed.facts.ssh.as_ref().map(|ssh| ssh.server.to_string());
        let ends = server
            .filter(|server| holder(observed, server).is_some_and(|link| of(&link) && server.contains(':')));
        self.lockout(plan, ends.map(|server| format!("{server}, the address of SSH")));
    }

    /// The link by which SSH answers on a route that forwarding takes away.
    fn by_advertisement<'a>(&self, observed: &'a Observed, will_be: &HostAfter<'_>) -> Option<&'a str> {
        let link = advertised_route(observed)?;
        let own = self.link() == "all" || self.link() == link;
        let accepts = will_be.key(&format!("net/ipv6/conf/{link}/accept_ra"));
        // 0: not the kernel took the advertisement, but a program, and its routes stay.
        (own && accepts.is_some_and(|(value, _)| value == "1") && self.live.as_deref() == Some("0"))
            .then_some(link)
    }

    /// What SSH rests on that routers announce, and that runs out.
    fn not_renewed(&self, observed: &Observed, will_be: &HostAfter<'_>) -> Option<String> {
        let ssh = observed.facts.ssh.as_ref().filter(|ssh| !ssh.server.is_ipv4())?;
        let server = ssh.server.to_string();
        let link = holder(observed, &server).filter(|link| link.name == self.link())?;
        if will_be.live_key(&format!("net/ipv6/conf/{}/accept_ra", link.name)).as_deref() == Some("0") {
            return None;
        }
        let address = link.addresses.iter().any(|a| a.local == server && a.dynamic);
        if address && !self.key.path().ends_with("_defrtr") {
            return Some(format!("{server}, the address of SSH, at the end of its lifetime"));
        }
        let route = advertised_route(observed)
            .filter(|route| *route == link.name && !self.key.path().ends_with("autoconf"));
        route.map(|link| {
            format!("the IPv6 default route on {link}, which SSH uses, at the end of its lifetime")
        })
    }

    fn lockout(&self, plan: &mut HostPlan, what: Option<String>) {
        let Some(what) = what else { return };
        let text = format!("LOCKOUT: {} = {} removes {what}", self.key, self.value);
        self.warn(LintCode::Lockout, plan, text, Some(ChangeRisk::Lockout));
    }

    /// Warns, and marks the change that has the key.
    fn warn(
        &self,
        code: LintCode,
        plan: &mut HostPlan,
        message: impl Into<WarningMessage>,
        risk: Option<ChangeRisk>,
    ) {
        plan.warnings.push(Warning::new(code, message, self.origin.clone()));
        let name = format!("{} = ", self.key);
        let changes = plan.changes.iter_mut().filter(|change| change.kind == ResourceKind::Sysctl);
        for change in
            changes.filter(|change| change.diff.lines.iter().any(|line| line.text.starts_with(&name)))
        {
            change.risks.extend(risk.filter(|risk| !change.risks.contains(risk)));
        }
    }

    /// Why the host could not go on with a limit.
    fn exhausts(&self, what: LimitUse, observed: &Observed, will_be: &HostAfter<'_>) -> Option<Refusal> {
        let (key, value) = (&self.key, self.value);
        let number: u64 = value.parse().ok()?;
        let refused = |why: String| {
            let at = self.origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
            Some(Refusal::new("exhausts-host", format!("{key} = {value}: {why}{at}")))
        };
        let in_use = |path: &str| will_be.live_key(path)?.split_whitespace().next()?.parse().ok();
        let (used, spare, of) = match what {
            LimitUse::AtLeast(least) if number < least => {
                return refused(format!(
                    "the host needs at least {least}, also for the dry run and the rollback"
                ));
            }
            LimitUse::AtLeast(_) => return None,
            LimitUse::Threads => (observed.facts.threads?, 1024, "threads run"),
            LimitUse::Files => (in_use("fs/file-nr")?, 4096, "files are open"),
            LimitUse::Memory => return memory_short(will_be).and_then(refused),
            LimitUse::FreeMemory => return reserve_short(will_be, number).and_then(refused),
            LimitUse::HugePages => {
                let more = number.saturating_sub(memory(will_be, "HugePages_Total")?);
                let pages = more.saturating_mul(memory(will_be, "Hugepagesize")?);
                return reserve_short(will_be, pages).filter(|_| more > 0).and_then(refused);
            }
            LimitUse::Connections => {
                let used: u64 = in_use("net/netfilter/nf_conntrack_count")?;
                if number >= used + used / 10 + 128 {
                    return None;
                }
                return refused(format!(
                    "{used} connections are tracked; with this limit new ones are dropped, including SSH"
                ));
            }
            LimitUse::Terminals => {
                let used: u64 = in_use("kernel/pty/nr")?;
                if number >= used + 16 {
                    return None;
                }
                return refused(format!("{used} terminals are open; with this limit no login gets one"));
            }
        };
        let least = used + used / 10 + spare;
        if number >= least {
            return None;
        }
        refused(format!(
            "{used} {of}; with less than {least} the host cannot start a process, not even the rollback"
        ))
    }
}

/// Memory that is left free for what kvmfw itself starts, in KiB.
const SPARE_MEMORY: u64 = 256 * 1024;

/// A line of /proc/meminfo: KiB, or a number of pages.
fn memory(will_be: &HostAfter<'_>, name: &str) -> Option<u64> {
    will_be.live_key(&format!("meminfo/{name}"))?.split_whitespace().next()?.parse().ok()
}

/// Why memory is short when so many KiB are taken away from programs.
fn reserve_short(will_be: &HostAfter<'_>, taken: u64) -> Option<String> {
    let free = memory(will_be, "MemAvailable")?;
    (taken.saturating_add(SPARE_MEMORY) > free).then(|| {
        format!(
            "this takes {} MiB from programs and {} MiB are available: the kernel would kill processes",
            taken / 1024,
            free / 1024
        )
    })
}

/// Why memory is short when only so much of it is promised.
fn memory_short(will_be: &HostAfter<'_>) -> Option<String> {
    let number = |path: &str| will_be.key(path)?.0.parse::<u64>().ok();
    if number("vm/overcommit_memory")? != 2 {
        return None;
    }
    let memory = |name: &str| memory(will_be, name);
    let swap = memory("SwapTotal").unwrap_or(0);
    let huge = memory("HugePages_Total").unwrap_or(0) * memory("Hugepagesize").unwrap_or(0);
    let of_ram = match number("vm/overcommit_kbytes").unwrap_or(0) {
        0 => memory("MemTotal")?.saturating_sub(huge) * number("vm/overcommit_ratio").unwrap_or(50) / 100,
        kbytes => kbytes,
    };
    let (limit, used) = (of_ram + swap, memory("Committed_AS")?);
    (limit < used + SPARE_MEMORY).then(|| {
        format!(
            "{} MiB are committed already, and with overcommit_memory 2 the limit is {} MiB: no process could \
             start; raise vm.overcommit_ratio first",
            used / 1024,
            limit / 1024
        )
    })
}

/// The link that has an address.
fn holder<'a>(observed: &'a Observed, address: &str) -> Option<&'a HostLink> {
    observed.links.by_name.values().find(|link| link.addresses.iter().any(|a| a.local == address))
}

/// The link of the route by router advertisement by which SSH is answered.
fn advertised_route(observed: &Observed) -> Option<&str> {
    let ssh = observed.facts.ssh.as_ref()?;
    let mut names = observed.links.by_name.keys().map(String::as_str);
    names.find(|name| answers_by_advertisement(observed, ssh.client, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_ways() {
        assert!(fits("net/ipv6/conf/*/disable_ipv6", "net/ipv6/conf/eth0.7/disable_ipv6"));
        assert!(!fits("net/ipv6/conf/*/disable_ipv6", "net/ipv6/conf/disable_ipv6"));
        assert!(!fits("kernel/pid_max", "kernel/pid_max/x"));
        assert!(is_of_all_links("net/ipv6/neigh/default/gc_thresh1"));
        assert!(!is_of_all_links("net/ipv6/neigh/default/gc_stale_time"));
        assert!(
            effects("net/ipv4/neigh/default/gc_thresh3")
                .any(|e| e == WriteEffect::Limits(LimitUse::AtLeast(128)))
        );
        let stays = |path: &str, from: &str, to: &str| stays(&SysctlKey::parse(path).unwrap(), from, to);
        assert!(
            stays("kernel/kexec_load_disabled", "1", "0") && !stays("kernel/kexec_load_disabled", "0", "1")
        );
        assert!(stays("kernel/unprivileged_bpf_disabled", "1", "0"));
        assert!(!stays("kernel/unprivileged_bpf_disabled", "2", "0"));
        assert!(stays("kernel/yama/ptrace_scope", "3", "1") && !stays("kernel/yama/ptrace_scope", "2", "1"));
        assert!(stays("kernel/kexec_load_limit_panic", "1", "-1"));
        assert!(!stays("kernel/kexec_load_limit_panic", "-1", "1"));
        assert!(!stays("net/ipv4/ip_forward", "1", "0"));
    }
}

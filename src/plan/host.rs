//! The plan of one host.

use super::{Back, Bundle, Change, Record, Risk, adopt, bridge, lints, rules, sysctl};
use crate::desired::{Desired, Way};
use crate::inventory::BOOTSTRAP;
use crate::observe::{Observed, Predicted};
use crate::problem::{Origin, Warning};
use crate::resource::iptables::{Family, own};
use serde::Serialize;
use std::collections::BTreeSet;

/// What a user allowed beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Take a host over from another inventory.
    pub take_over: bool,
    /// Risks that do not refuse.
    pub accept: BTreeSet<Acceptable>,
    /// Take over rules and files of others that say what ours say.
    pub adopt: bool,
    /// Go back to the state before kvmfw.
    pub zero: bool,
    /// Go back to an earlier generation.
    pub back: Option<Back>,
    /// Only look what has changed since the last apply.
    pub drift: bool,
}

/// A predicted risk that refuses a host until the user accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Acceptable {
    /// The host's SSH will be cut.
    Lockout,
    /// Something on the host needs bridged frames in netfilter, and they are taken out of it.
    BypassWrong,
    /// Every resource of a kind is removed.
    RemovesAll,
}

impl Acceptable {
    /// All of them, the gravest first.
    pub const ALL: [Acceptable; 3] = [Acceptable::Lockout, Acceptable::BypassWrong, Acceptable::RemovesAll];

    /// The word for `--accept-risk`, and the reason of the refusal.
    pub fn as_str(self) -> &'static str {
        match self {
            Acceptable::Lockout => "lockout",
            Acceptable::BypassWrong => "bypass_wrong",
            Acceptable::RemovesAll => "removes-all",
        }
    }
}

/// What is to be done on one host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// The host.
    pub host: String,
    /// The generation that it was made against; `None` on a host that was never managed.
    pub generation: Option<u32>,
    /// Whether there is something to do, and whether it may be done.
    pub verdict: Verdict,
    /// What changes, in the order in which it is shown.
    pub changes: Vec<Change>,
    /// What a user should know.
    pub warnings: Vec<Warning>,
    /// What the host gets, if this is applied.
    pub bundle: Bundle,
    /// A guest of this host is the way to others, or to itself: it changes alone, and last.
    pub alone: bool,
}

/// Whether there is something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host is as desired.
    Unchanged,
    /// There are changes.
    Changes,
    /// It is left alone on purpose.
    Refused(Refusal),
}

/// Why a host is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// A stable word: `managed_by`, `mixed_backends`, `lockout`, …
    pub reason: String,
    /// The sentence for the user, with the way out.
    pub message: String,
}

impl Refusal {
    /// Whether the host said no to what it was asked, rather than we to asking it.
    pub fn is_failure(&self) -> bool {
        matches!(self.reason.as_str(), "rejected_rule" | "dry_run_failed")
    }

    /// What to do next, where the sentence does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self.reason.as_str() {
            _ if self.is_failure() => Some("nothing was touched; correct the rule and plan again"),
            "lockout" => Some(
                "nothing was touched; correct the rule. With --accept-risk lockout it is applied all the same, and the host \
                 puts itself back when no new connection confirms",
            ),
            "bypass_wrong" => Some(
                "nothing was touched; use bridge-accept-each or bridge-accept-physdev there, with `hook: last` for FORWARD where rules of \
                 others filter guests, or --accept-risk bypass_wrong",
            ),
            "removes-all" => Some("nothing was touched; if that is meant, --accept-risk removes-all"),
            "adoption_differs" => Some(
                "nothing was touched; write in the inventory what the host has, exactly as it has it, or set `hook: last` where rules \
                 of others come first",
            ),
            _ => None,
        }
    }

    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// What has to be asked of a host: own text wanted of each family, and sysctl keys.
pub fn question(desired: &Desired) -> ([String; 2], String) {
    let want = Family::ALL.map(|f| desired.rules.get(&f).map_or_else(String::new, own::render));
    let mut keys = String::new();
    for entry in desired.sysctl.values().flat_map(|f| &f.entries) {
        keys.push_str(entry.key.path());
        keys.push('\n');
    }
    (want, keys)
}

/// Whether the VLANs of ports have to be asked for as well.
pub fn asks_vlans(desired: &Desired) -> bool {
    let mut managed = desired.bridges.values().filter(|bridge| bridge.manage);
    managed.any(|bridge| {
        // A port that may be taken from a bridge of others gets its VLANs there back one day.
        let takes = bridge.take_addresses && !bridge.ports.is_empty();
        takes || !bridge.vlans.is_empty() || bridge.vlan_filtering == Some(true)
    })
}

/// What can be said about a host's part of the inventory without a connection.
pub fn check(desired: &Desired) -> Vec<Warning> {
    let mut warnings = desired.warnings.clone();
    warnings.extend(lints::offline(desired));
    warnings
}

/// Plans one host.
pub fn host(desired: &Desired, observed: &Observed, options: &Options) -> HostPlan {
    let mut plan = HostPlan {
        host: desired.host.clone(),
        generation: observed.state.generation,
        verdict: Verdict::Unchanged,
        changes: Vec::new(),
        warnings: desired.warnings.clone(),
        bundle: Bundle::default(),
        alone: alone(desired, observed),
    };
    let record = match record(observed) {
        Ok(record) => record.unwrap_or_default(),
        Err(refusal) => {
            plan.verdict = Verdict::Refused(refusal);
            return plan;
        }
    };
    let sysctl = sysctl::plan(desired, observed, &record, options.adopt);
    let mut rules = Family::ALL.map(|family| rules::plan(family, desired, observed, &record));
    let adoption = adopt::plan(desired, observed, &record, options, &mut rules, &sysctl);

    plan.changes.extend(sysctl.changes.iter().cloned());
    plan.warnings.extend(sysctl.warnings.iter().cloned());
    for rules in &rules {
        plan.changes.extend(rules.changes.iter().cloned());
        plan.warnings.extend(rules.warnings.iter().cloned());
    }
    plan.warnings.extend(adoption.warnings.iter().cloned());
    let bridges = bridge::plan(desired, observed, &record);
    plan.changes.extend(bridges.changes.iter().cloned());
    plan.warnings.extend(bridges.warnings.iter().cloned());
    if !options.zero {
        plan.changes.extend(super::boot::changes(observed));
    }
    if options.zero && observed.state.generation.is_some() && plan.changes.is_empty() {
        plan.changes.push(leave());
    }
    removes_all(&record, desired, &mut plan.changes);
    plan.changes.extend(adoption.changes.iter().cloned());
    plan.warnings.extend(left_behind(desired, observed));
    let refusal = refusal(desired, observed, options, &sysctl)
        .or_else(|| bridges.refusal.as_ref().map(|(reason, message)| Refusal::new(reason, message)))
        .or_else(|| adoption.refusal.clone());
    lints::judge(desired, observed, &rules, &mut plan);
    let refusal = refusal.or_else(|| risky(&plan, options));
    plan.verdict = match refusal {
        Some(refusal) => Verdict::Refused(refusal),
        None if plan.changes.is_empty() => Verdict::Unchanged,
        None => Verdict::Changes,
    };
    plan.warnings.sort();
    plan.warnings.dedup();
    plan.bundle = Bundle::of(desired, observed, &sysctl, &rules, &bridges, &adoption, options);
    plan
}

/// The gravest of the risks that the plan has and the user did not accept.
fn risky(plan: &HostPlan, options: &Options) -> Option<Refusal> {
    if plan.changes.is_empty() {
        return None;
    }
    let found = |risk| match risk {
        Acceptable::Lockout => warning(plan, "lockout"),
        Acceptable::BypassWrong => {
            let changes = plan.changes.iter().any(|c| c.risks.contains(&Risk::BypassWrong));
            warning(plan, "bypass-wrong").filter(|_| changes)
        }
        Acceptable::RemovesAll => removed_kinds(&plan.changes),
    };
    Acceptable::ALL
        .into_iter()
        .filter(|risk| !options.accept.contains(risk))
        .find_map(|risk| Some(Refusal::new(risk.as_str(), found(risk)?)))
}

/// The sentence of a warning, with its place.
fn warning(plan: &HostPlan, code: &str) -> Option<String> {
    let found = plan.warnings.iter().find(|w| w.code == code)?;
    let origin = found.origin.as_ref().map_or_else(String::new, |o| format!(" ({o})"));
    Some(format!("{}{origin}", found.message))
}

/// Says which kinds of resources the plan takes away altogether. Where sysctl files go and rules come,
/// one cure takes the place of another, and that is no slip.
fn removed_kinds(changes: &[Change]) -> Option<String> {
    use crate::resource::Kind;
    let rules = |c: &Change| matches!(c.kind, Kind::Iptables | Kind::Ip6tables);
    let replaced = changes.iter().any(|c| rules(c) && c.action != super::Action::Remove);
    let gone = changes.iter().filter(|c| c.risks.contains(&Risk::RemovesAll));
    let gone = gone.filter(|c| c.kind != Kind::Sysctl || !replaced);
    let kinds: BTreeSet<&str> = gone.map(|c| c.kind.as_str()).collect();
    let list: Vec<&str> = kinds.into_iter().collect();
    (!list.is_empty())
        .then(|| format!("this removes everything that kvmfw put there of kind {}", list.join(", ")))
}

/// What an earlier run or the last boot left to be looked at.
pub(super) fn left_behind(desired: &Desired, observed: &Observed) -> impl Iterator<Item = Warning> {
    let state = &observed.state;
    let open = state.open.as_ref().map(|id| Warning {
        code: "open-transaction",
        message: format!(
            "transaction {id} is open; an apply ends it first, or see kvmfw status and kvmfw unlock"
        ),
        origin: None,
    });
    let boot = state.boot_failed.as_ref().map(|why| Warning {
        code: "boot-failed",
        message: match why.strip_prefix("bridges: ") {
            Some(line) => format!("at the last boot the bridges did not become what they should be: {line}"),
            None => format!("at the last boot the rules did not load, so the host was open: {why}"),
        },
        origin: None,
    });
    // Who connects to the host is the last of the hops to it, where there are some.
    let hop = desired.connection.jump.as_deref().and_then(|jump| jump.rsplit(',').next());
    let guest = observed.facts.guest.as_ref().map(|port| match hop {
        None => Warning {
            code: "controller-is-guest",
            message: format!(
                "kvmfw runs in a guest of this host, behind port {port}: what cuts off that guest cuts off kvmfw, and the host puts \
                 itself back; apply from elsewhere where guests are touched"
            ),
            origin: None,
        },
        Some(hop) => Warning {
            code: "jump-host-is-guest",
            message: format!(
                "the jump host {hop} is a guest of this host, behind port {port}: what cuts off that guest cuts off all hosts that \
                 are reached through it, and this host puts itself back; reach it another way where guests are touched; it is \
                 changed alone, and last"
            ),
            origin: None,
        },
    });
    let ways = ways(desired, observed).map(|(way, port)| Warning {
        code: "jump-host-is-guest",
        message: format!(
            "{}, the way to {}, is a guest of this host, behind port {port}: what cuts off that guest cuts off the \
             hosts behind it; this host is changed alone, and last",
            way.hop, way.leads_to
        ),
        origin: None,
    });
    open.into_iter().chain(boot).chain(guest).chain(ways.collect::<Vec<_>>())
}

/// Jump hosts among the guests, but for the one by which this host itself is reached.
fn ways<'a>(desired: &'a Desired, observed: &'a Observed) -> impl Iterator<Item = (&'a Way, &'a String)> {
    let own = observed.facts.guest.as_ref().filter(|_| desired.connection.jump.is_some());
    let found = observed.facts.ways.iter().filter(move |(_, port)| own != Some(port));
    found.filter_map(|(number, port)| Some((desired.ways.get(*number)?, port)))
}

/// Whether hosts are reached through a guest of this one.
fn alone(desired: &Desired, observed: &Observed) -> bool {
    let own = observed.facts.guest.is_some() && desired.connection.jump.is_some();
    own || ways(desired, observed).next().is_some()
}

/// Going back to the original of a host that has nothing of ours but the record of it.
fn leave() -> Change {
    Change {
        kind: crate::resource::Kind::Sysctl,
        resource: "kvmfw".to_owned(),
        action: super::Action::Remove,
        diff: vec![super::DiffLine {
            sign: '-',
            text: "/etc/kvmfw and its boot units".to_owned(),
            origin: None,
        }]
        .into(),
        origin: Vec::new(),
        risks: Vec::new(),
    }
}

/// A plan that takes away every resource of a kind is more often a slip than a wish.
fn removes_all(record: &Record, desired: &Desired, changes: &mut [Change]) {
    use crate::resource::Kind;
    let had_rules = |f| record.rules.get(&f).is_some_and(|r| !own::render(r).is_empty());
    let has_rules = |f| desired.rules.get(&f).is_some_and(|r| !own::render(r).is_empty());
    let gone = [
        (Kind::Sysctl, !record.sysctl.is_empty() && desired.sysctl.is_empty()),
        (Kind::Iptables, had_rules(Family::V4) && !has_rules(Family::V4)),
        (Kind::Ip6tables, had_rules(Family::V6) && !has_rules(Family::V6)),
        (Kind::Bridge, !record.bridges.is_empty() && desired.bridges.is_empty()),
    ];
    for (kind, _) in gone.iter().filter(|(_, gone)| *gone) {
        for change in changes.iter_mut().filter(|c| c.kind == *kind) {
            change.risks.push(Risk::RemovesAll);
        }
    }
}

/// What the host's generation wants; `None` on a host without one. A generation whose record is gone is not that:
/// whoever took it for that would forget what is ours there.
pub(super) fn record(observed: &Observed) -> Result<Option<Record>, Refusal> {
    let error = match (observed.state.record.as_deref().map(Record::parse), observed.state.generation) {
        (Some(Ok(record)), _) => return Ok(Some(record)),
        (None, None) => return Ok(None),
        (Some(Err(error)), _) => error,
        (None, Some(generation)) => {
            format!("/etc/kvmfw/generations/{generation}/desired.json is missing or empty")
        }
    };
    Err(Refusal::new(
        "unreadable_record",
        format!(
            "cannot read what the host's generation wants: {error}; at its console, `/var/lib/kvmfw/kvmfw.sh undo` goes back \
             to the one before"
        ),
    ))
}

/// Whether another inventory has the host.
pub(super) fn managed_by(desired: &Desired, observed: &Observed, options: &Options) -> Option<Refusal> {
    let manager = observed.state.inventory.as_ref()?;
    // A bootstrap holds a host only until an inventory has it.
    if *manager == desired.inventory || manager == BOOTSTRAP || options.take_over {
        return None;
    }
    Some(Refusal::new(
        "managed_by",
        format!(
            "the inventory `{manager}` manages this host, this one is `{}`; take it over with --take-over",
            desired.inventory
        ),
    ))
}

/// Why the host must be left alone, whatever the changes are.
fn refusal(
    desired: &Desired,
    observed: &Observed,
    options: &Options,
    sysctl: &sysctl::SysctlPlan,
) -> Option<Refusal> {
    let wants_rules = |f: Family| desired.rules.get(&f).is_some_and(|r| !own::render(r).is_empty());
    let managed_by = managed_by(desired, observed, options);
    if managed_by.is_some() {
        return managed_by;
    }
    let needs: BTreeSet<&str> = observed
        .facts
        .missing
        .iter()
        .map(String::as_str)
        .filter(|tool| match *tool {
            "iptables-save" => wants_rules(Family::V4),
            "ip6tables-save" => wants_rules(Family::V6),
            "unshare" => Family::ALL.into_iter().any(wants_rules),
            _ => true,
        })
        .collect();
    if !needs.is_empty() {
        let list: Vec<&str> = needs.into_iter().collect();
        return Some(Refusal::new(
            "missing_tool",
            match super::packages::install(&list, &observed.facts.os) {
                Some(command) => {
                    format!("the host has no {}; install it there: {command}", list.join(", no "))
                }
                None => format!("the host has no {}; install it there", list.join(", no ")),
            },
        ));
    }
    if !observed.facts.units {
        return Some(Refusal::new(
            "no_boot",
            "there is no /etc/systemd/system, so nothing could be made to last over a reboot",
        ));
    }
    if let Some(message) = sysctl.stuck.first() {
        return Some(Refusal::new("read_only_key", message));
    }
    if let Some(file) = sysctl.foreign.first() {
        return Some(Refusal::new("foreign_owner", file.refusal(options.adopt)));
    }
    Family::ALL
        .into_iter()
        .filter(|f| wants_rules(*f))
        .find_map(|family| refused_rules(family, desired, observed))
}

/// Where the rule was declared that the host named.
fn blamed<'a>(family: Family, desired: &'a Desired, words: &str) -> Option<&'a Origin> {
    let (chain, text) = words.rsplit_once("rule: -A ")?.1.split_once(' ')?;
    let tables = desired.rules.get(&family)?.tables.values();
    let mut rules = tables.filter_map(|t| t.chains.get(chain)).flat_map(|c| c.rules.iter());
    rules.find(|r| r.text == text).map(|r| &r.origin)
}

/// Who else loads rules there, and the way out.
fn other_firewall(manager: &str) -> String {
    let (name, file) = manager.split_once(' ').unwrap_or((manager, ""));
    match name {
        "firewalld" => {
            "firewalld is active or enabled there and loads rules of its own, in an order nobody controls; \
                        leave the rules to it, or systemctl disable --now firewalld"
                .to_owned()
        }
        "ufw" => {
            "ufw is enabled there and loads rules of its own at boot; leave the rules to it, or ufw disable"
                .to_owned()
        }
        _ => format!(
            "{name}.service is enabled there and {file} begins with `flush ruleset`, which wipes all rules, ours too; \
             take that line out, or systemctl disable {name}"
        ),
    }
}

pub(super) fn refused_rules(family: Family, desired: &Desired, observed: &Observed) -> Option<Refusal> {
    let rules = observed.rules.get(&family)?;
    if rules.backend == "none" {
        return Some(Refusal::new("missing_tool", format!("the host has no {family}; install it there")));
    }
    if rules.backend == "old" {
        return Some(Refusal::new(
            "missing_tool",
            format!("{family} there is too old to tell its backend ({})", rules.version),
        ));
    }
    if let Some(manager) = observed.others.managers.first() {
        return Some(Refusal::new("other_firewall", other_firewall(manager)));
    }
    if !rules.live.incompatible.is_empty() {
        return Some(Refusal::new(
            "native_nft",
            format!(
                "the nft table `{}` of {family} has native nft rules or chains, which iptables cannot show; move them to a table of their own",
                rules.live.incompatible.join("`, `")
            ),
        ));
    }
    let digit = if family == Family::V4 { "4" } else { "6" };
    if let Some((backend, count)) = observed.others.backend_rules.iter().find(|(b, _)| b.ends_with(digit)) {
        let other = backend.trim_end_matches(['4', '6']);
        return Some(Refusal::new(
            "mixed_backends",
            format!(
                "{family} is the {} one there, but {count} rules or DROP policies are loaded in the {other} one, and both decide; \
                 move them over, or take them away there with {family}-{other} -F and -P CHAIN ACCEPT",
                rules.backend
            ),
        ));
    }
    if let Some(native) = observed.others.native.first() {
        return Some(Refusal::new(
            "native_nft",
            format!(
                "a native nft rule with a set stands in a table of iptables, which iptables-save shows wrong: {native}"
            ),
        ));
    }
    match &rules.predicted {
        Predicted::Refused(words) => {
            let place = blamed(family, desired, words).map_or_else(String::new, |o| format!(" ({o})"));
            let message = format!("{family} on the host does not take the rules: {words}{place}");
            Some(Refusal::new("rejected_rule", message))
        }
        Predicted::CannotClone(words) => Some(Refusal::new(
            "dry_run_failed",
            format!(
                "the live rules of {family} cannot be loaded in a dry run, so nothing can be proven: {words}"
            ),
        )),
        _ => None,
    }
}

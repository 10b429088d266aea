//! The plan of one host.

use super::refusal::{Refusal, read_manifest, refusal, risky};
use super::transaction_files::ResourcePlans;
use super::{
    Change, ChangeRisk, GenerationManifest, RestoreTarget, TransactionFiles, adopt, bridge, key_effects,
    lints, rules, sets, sysctl,
};
use crate::host_state::Observed;
use crate::impact::ImpactLine;
use crate::jump_hosts::{JumpHost, JumpRole};
use crate::problem::{LintCode, LintPolicy, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::iptables::{IpFamily, managed_text};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a user allowed beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Take a host over from another inventory.
    pub reassign: bool,
    /// Risks that do not refuse.
    pub accept: BTreeSet<AcceptableRisk>,
    /// Take over rules and files of others that say what ours say.
    pub adopt: bool,
    /// Go back to the state before kvmfw.
    pub purge: bool,
    /// Go back to an earlier generation.
    pub restore: Option<RestoreTarget>,
    /// Only look what has changed since the last apply.
    pub drift: bool,
    /// The impact also lists flows whose verdict stays the same.
    pub all_flows: bool,
}

/// A predicted risk that refuses a host until the user accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AcceptableRisk {
    /// The host's SSH will be cut.
    Lockout,
    /// Guests that reach each other now will not.
    GuestsUnreachable,
    /// Something on the host needs bridged frames in netfilter, and they are taken out of it.
    BypassWrong,
    /// Every resource of a kind is removed.
    RemovesAll,
}

impl AcceptableRisk {
    /// All of them, the gravest first.
    pub const ALL: [AcceptableRisk; 4] = [
        AcceptableRisk::Lockout,
        AcceptableRisk::GuestsUnreachable,
        AcceptableRisk::BypassWrong,
        AcceptableRisk::RemovesAll,
    ];

    /// The word for `--accept-risk`, and the reason of the refusal.
    pub fn as_str(self) -> &'static str {
        match self {
            AcceptableRisk::Lockout => "lockout",
            AcceptableRisk::GuestsUnreachable => "guests-unreachable",
            AcceptableRisk::BypassWrong => "bypass-wrong",
            AcceptableRisk::RemovesAll => "removes-all",
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
    pub verdict: HostVerdict,
    /// What changes, in the order in which it is shown.
    pub changes: Vec<Change>,
    /// What a user should know.
    pub warnings: Vec<Warning>,
    /// What the host gets, if this is applied.
    pub transaction_files: TransactionFiles,
    /// A transaction that was open when this was planned: what is there may be put back.
    pub open: Option<String>,
    /// A certain lockout that shows only when a cache, a lease or a conntrack entry expires, so that a
    /// successful confirm does not disprove it.
    pub latent_lockout: Option<String>,
    /// Why guests that reach each other now will not, by family and bridge; without those that are cut off already.
    pub guest_outages: Vec<String>,
    /// What packets gain and lose; with [`PlanOptions::all_flows`], flows whose verdict stays the same too.
    pub impact: Vec<ImpactLine>,
    /// Jump depth as in [`SchedulingConstraints`](crate::resolve::SchedulingConstraints), by what probes observed.
    /// A host with a guest through which hosts are reached is changed last of all.
    pub jump_depth: usize,
    /// Which lints are shown, and which refuse the host.
    pub lints: Arc<LintPolicy>,
}

impl HostPlan {
    /// Takes over a role that probes observed.
    pub fn mark_jump_host(&mut self, role: &JumpRole) {
        // The warning of the inventory is kept: it may name more hosts.
        if self.warnings.iter().all(|known| known.code != role.warning.code) {
            self.warnings.push(role.warning.clone());
            self.warnings.sort();
            self.enforce_lints();
        }
        self.jump_depth = self.jump_depth.max(role.depth);
    }

    /// Why the host is left alone, where it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.verdict {
            HostVerdict::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Takes over what expectations came to; `broken` says which do not hold. With `refuses`, one that does not hold
    /// refuses the host; else it counts as a change, so that it is not overlooked.
    pub fn finish_expectations(&mut self, broken: Option<String>, refuses: bool) {
        self.warnings.sort();
        if let Some(message) = broken {
            match (&self.verdict, refuses) {
                (HostVerdict::Refused(_), _) => {}
                (_, true) => self.verdict = HostVerdict::Refused(Refusal::new("expectation", message)),
                (HostVerdict::Unchanged, false) => self.verdict = HostVerdict::Changes,
                (HostVerdict::Changes, false) => {}
            }
        }
        self.enforce_lints();
    }

    /// Takes away the warnings that are allowed, and refuses the host where one is denied.
    fn enforce_lints(&mut self) {
        let lints = self.lints.clone();
        lints.drop_allowed(&mut self.warnings);
        let denied = lints.denied(&self.warnings);
        if !denied.is_empty() && !matches!(self.verdict, HostVerdict::Refused(_)) {
            self.verdict = HostVerdict::Refused(Refusal::new("lint", denied_text(&denied)));
        }
    }
}

/// Whether there is something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostVerdict {
    /// The host is as desired.
    Unchanged,
    /// There are changes.
    Changes,
    /// It is left alone on purpose.
    Refused(Refusal),
}

/// The sets that a host is to have, as lines that make them, without members.
pub fn set_headers(desired: &Desired) -> String {
    sets::headers(desired)
}

/// What has to be asked of a host: own text wanted of each family, and sysctl keys.
pub fn probe_request(desired: &Desired) -> ([String; 2], String) {
    let want = IpFamily::ALL.map(|f| desired.rules.get(&f).map_or_else(String::new, managed_text::render));
    let mut keys = String::new();
    for entry in desired.sysctl.values().flat_map(|f| &f.entries) {
        for path in std::iter::once(entry.key.path()).chain(key_effects::asks(entry.key.path())) {
            keys.push_str(path);
            keys.push('\n');
        }
    }
    (want, keys)
}

/// Whether the VLANs of ports have to be asked for as well.
pub fn needs_vlans(desired: &Desired) -> bool {
    let mut managed = desired.bridges.values().filter(|bridge| bridge.manage);
    managed.any(|bridge| {
        // A port that may be taken from a bridge of others gets its VLANs there back one day.
        let takes = bridge.take_addresses && !bridge.ports.is_empty();
        takes || !bridge.vlans.is_empty() || bridge.vlan_filtering == Some(true)
    })
}

/// What can be said about a host's part of the inventory without a connection, less what is allowed.
pub fn check(desired: &Desired) -> Vec<Warning> {
    let mut warnings = desired.warnings.clone();
    warnings.extend(lints::offline(desired));
    desired.lints.drop_allowed(&mut warnings);
    warnings
}

/// The findings of lints that are denied, with their places.
fn denied_text(denied: &[&Warning]) -> String {
    let text = |warning: &&Warning| {
        let origin = warning.origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
        format!("{}: {}{origin}", warning.code, warning.message.finding)
    };
    let texts: Vec<String> = denied.iter().map(text).collect();
    format!("denied: {}", texts.join("; "))
}

/// Plans one host.
pub fn host(desired: &Desired, observed: &Observed, options: &PlanOptions) -> HostPlan {
    let mut plan = HostPlan {
        host: desired.host.clone(),
        generation: observed.state.generation,
        verdict: HostVerdict::Unchanged,
        changes: Vec::new(),
        warnings: desired.warnings.clone(),
        transaction_files: TransactionFiles::default(),
        open: observed.state.open.clone(),
        latent_lockout: None,
        guest_outages: vec![],
        impact: vec![],
        jump_depth: if is_reached_through_guest(desired, observed) { usize::MAX } else { 0 },
        lints: desired.lints.clone(),
    };
    let record = match read_manifest(observed) {
        Ok(record) => record.unwrap_or_default(),
        Err(refusal) => {
            plan.verdict = HostVerdict::Refused(refusal);
            return plan;
        }
    };
    let sysctl = sysctl::plan(desired, observed, &record, options.adopt);
    let mut rules = IpFamily::ALL.map(|family| rules::plan(family, desired, observed, &record));
    let adoption = adopt::plan(desired, observed, &record, options, &mut rules, &sysctl);

    plan.changes.extend(sysctl.changes.iter().cloned());
    plan.warnings.extend(sysctl.warnings.iter().cloned());
    for rules in &rules {
        plan.changes.extend(rules.changes.iter().cloned());
        plan.warnings.extend(rules.warnings.iter().cloned());
    }
    plan.warnings.extend(adoption.warnings.iter().cloned());
    let sets = sets::plan(desired, observed, &record, options);
    plan.changes.extend(sets.changes.iter().cloned());
    plan.warnings.extend(sets.warnings.iter().cloned());
    let bridges = bridge::plan(desired, observed, &record);
    plan.changes.extend(bridges.changes.iter().cloned());
    plan.warnings.extend(bridges.warnings.iter().cloned());
    if !options.purge {
        plan.changes.extend(super::boot::changes(observed));
        super::boot::unrecorded(desired, observed, &mut plan);
    }
    if options.purge && plan.changes.is_empty() {
        match (observed.state.generation, observed.state.traces) {
            (Some(_), _) => plan.changes.push(leave("/etc/kvmfw and its boot units")),
            (None, true) => plan.changes.push(leave("/var/lib/kvmfw, the record of an attempt")),
            (None, false) => {}
        }
    }
    removes_all(&record, desired, &mut plan.changes);
    plan.changes.extend(adoption.changes.iter().cloned());
    plan.warnings.extend(left_behind(desired, observed));
    plan.warnings.extend(super::loaders::warnings(desired, observed, options, &rules));
    let refusal = refusal(desired, observed, options, &sysctl)
        .or_else(|| sets.refusal.clone())
        .or_else(|| bridges.refusal.as_ref().map(|(reason, message)| Refusal::new(reason, message)))
        .or_else(|| adoption.refusal.clone())
        .or_else(|| key_effects::judge(desired, observed, &record, &sysctl, &mut plan));
    lints::judge(desired, observed, (&record, options), &rules, &mut plan);
    let refusal = refusal.or_else(|| risky(&plan, options));
    plan.verdict = match refusal {
        Some(refusal) => HostVerdict::Refused(refusal),
        None if plan.changes.is_empty() => HostVerdict::Unchanged,
        None => HostVerdict::Changes,
    };
    plan.warnings.sort();
    plan.warnings.dedup();
    plan.enforce_lints();
    let parts =
        ResourcePlans { sysctl: &sysctl, rules: &rules, sets: &sets, bridges: &bridges, adoption: &adoption };
    plan.transaction_files = TransactionFiles::new(desired, observed, parts, options);
    plan
}

/// What an earlier run or the last boot left to be looked at.
pub(super) fn left_behind(desired: &Desired, observed: &Observed) -> impl Iterator<Item = Warning> {
    let state = &observed.state;
    let open = state.open.as_ref().map(|id| {
        Warning::new(
            LintCode::OpenTransaction,
            WarningMessage::new(format!(
                "transaction {id} is undecided: an apply is refused while its guard \
                 runs, and otherwise rolls it back first"
            ))
            .fix("run kvmfw status; to roll back now, run kvmfw unlock"),
            None,
        )
    });
    let boot = state.boot_failed.as_ref().map(|why| {
        Warning::new(
            LintCode::BootFailed,
            match why.strip_prefix("bridges: ") {
                Some(line) => WarningMessage::new("at the last boot the bridges were not set up as recorded")
                    .cause(line),
                None if why.starts_with("ipset: ") => WarningMessage::new(
                    "since the last boot the sets differ from the generation, and rules \
                     that use them may be missing",
                )
                .cause(why),
                None => WarningMessage::new(
                    "since the last boot the rules are not loaded as a whole, so the host may be open",
                )
                .cause(why),
            },
            None,
        )
    });
    // Who connects to the host is the last of the hops to it, where there are some.
    let hop = desired.connection.jump.as_deref().and_then(|jump| jump.rsplit(',').next());
    let guest = observed.facts.guest.as_ref().map(|port| match hop {
        None => Warning::new(
            LintCode::ControllerIsGuest,
            WarningMessage::new(format!(
                "kvmfw runs in a guest of this host, behind port {port}: a change \
                 that cuts off that guest cuts off kvmfw, and the host rolls itself \
                 back"
            ))
            .fix("apply changes of guests from another machine"),
            None,
        ),
        Some(hop) => Warning::new(
            LintCode::JumpHostIsGuest,
            WarningMessage::new(format!(
                "the jump host {hop} is a guest of this host, behind port {port}: a \
                 change that cuts off that guest cuts off all hosts behind it, and \
                 this host rolls itself back; it is changed alone, and last"
            ))
            .fix("for changes of guests, reach these hosts without that jump host"),
            None,
        ),
    });
    let jump_guests = guest_jump_hosts(desired, observed).map(|(jump_host, port)| Warning::new(LintCode::JumpHostIsGuest, format!(
            "{}, the jump host of {}, is a guest of this host, behind port {port}: what cuts off that guest cuts off the \
             hosts behind it; this host is changed alone, and last",
            jump_host.address, jump_host.behind
        ), None));
    let boot = boot.into_iter().chain(super::boot::warnings(desired, observed));
    open.into_iter().chain(boot).chain(guest).chain(jump_guests.collect::<Vec<_>>())
}

/// Jump hosts that are guests of this host, with their bridge port; without the one through which it was reached itself.
fn guest_jump_hosts<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a JumpHost, &'a String)> {
    let own = observed.facts.guest.as_ref().filter(|_| desired.connection.jump.is_some());
    let found = observed.facts.jump_hosts.iter().filter(move |(_, port)| own != Some(port));
    found.filter_map(|(number, port)| Some((desired.jump_hosts.get(*number)?, port)))
}

/// Whether hosts are reached through a guest of this one.
fn is_reached_through_guest(desired: &Desired, observed: &Observed) -> bool {
    let own = observed.facts.guest.is_some() && desired.connection.jump.is_some();
    own || guest_jump_hosts(desired, observed).next().is_some()
}

/// Going back to the original of a host that has nothing of ours but the record of it.
fn leave(what: &str) -> Change {
    Change {
        kind: crate::resource::ResourceKind::Sysctl,
        resource: "kvmfw".to_owned(),
        action: super::ChangeAction::Remove,
        diff: vec![super::DiffLine { sign: '-', text: what.to_owned(), origin: None }].into(),
        origin: Vec::new(),
        risks: Vec::new(),
    }
}

/// A plan that takes away every resource of a kind is more often a slip than a wish.
fn removes_all(record: &GenerationManifest, desired: &Desired, changes: &mut [Change]) {
    use crate::resource::ResourceKind;
    let had_rules = |f| record.rules.get(&f).is_some_and(|r| !managed_text::render(r).is_empty());
    let has_rules = |f| desired.rules.get(&f).is_some_and(|r| !managed_text::render(r).is_empty());
    let gone = [
        (ResourceKind::Sysctl, !record.sysctl.is_empty() && desired.sysctl.is_empty()),
        (ResourceKind::Iptables, had_rules(IpFamily::V4) && !has_rules(IpFamily::V4)),
        (ResourceKind::Ip6tables, had_rules(IpFamily::V6) && !has_rules(IpFamily::V6)),
        (ResourceKind::Ipset, !record.sets.is_empty() && desired.sets.is_empty()),
        (ResourceKind::Bridge, !record.bridges.is_empty() && desired.bridges.is_empty()),
    ];
    for (kind, _) in gone.iter().filter(|(_, gone)| *gone) {
        for change in changes.iter_mut().filter(|c| c.kind == *kind) {
            change.risks.push(ChangeRisk::RemovesAll);
        }
    }
}

//! Why a host is left alone.

use super::{AcceptableRisk, Change, ChangeRisk, GenerationManifest, HostPlan, PlanOptions, sysctl};
use crate::host_state::{Observed, PredictedRules};
use crate::inventory::BOOTSTRAP;
use crate::problem::{LintCode, Origin};
use crate::resolve::Desired;
use crate::resource::iptables::{ADMINISTRATORS, IpFamily, PREFIX, managed_text};
use serde::Serialize;
use std::collections::BTreeSet;

/// Why a host is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// A stable word: `managed-by`, `mixed-backends`, `lockout`, …
    pub reason: String,
    /// The sentence for the user, with the way out.
    pub message: String,
}

impl Refusal {
    /// Whether the host said no to what it was asked, rather than we to asking it.
    pub fn is_failure(&self) -> bool {
        matches!(self.reason.as_str(), "rejected-rule" | "rejected-set" | "dry-run-failed")
    }

    /// What to do next, where the sentence does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self.reason.as_str() {
            _ if self.is_failure() => Some("nothing was changed; correct the rule and run kvmfw plan again"),
            "lockout" => Some(
                "nothing was changed; correct the rule, or apply it with --accept-risk lockout: the host then \
                 rolls itself back if no new connection confirms",
            ),
            "guests-unreachable" => Some(
                "nothing was changed; add the module bridge-bypass, bridge-accept-each or bridge-accept-physdev (or set the \
                 key that is named), or accept the outage with --accept-risk guests-unreachable",
            ),
            "bypass-wrong" => Some(
                "nothing was changed; use bridge-accept-each or bridge-accept-physdev, with `jump: last` for \
                 FORWARD if unmanaged rules filter guests, or pass --accept-risk bypass-wrong",
            ),
            "removes-all" => Some("nothing was changed; if that is intended, pass --accept-risk removes-all"),
            "adoption-differs" => Some(
                "nothing was changed; write the rules exactly as on the host, or set `jump: last` if \
                 unmanaged rules come first",
            ),
            "expectation" => {
                Some("nothing was changed; correct the rules, or the expectation that no longer holds")
            }
            "lint" => Some(
                "nothing was changed; correct what is found, or set another level: `lints: { CODE: warn }`, or for one rule the \
                 comment `# kvmfw: allow(CODE) why`",
            ),
            _ => None,
        }
    }

    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// The gravest of the risks that the plan has and the user did not accept.
pub(super) fn risky(plan: &HostPlan, options: &PlanOptions) -> Option<Refusal> {
    if plan.changes.is_empty() {
        return None;
    }
    let found = |risk| match risk {
        AcceptableRisk::Lockout => warning(plan, LintCode::Lockout),
        AcceptableRisk::GuestsUnreachable => {
            (!plan.guest_outages.is_empty()).then(|| plan.guest_outages.join("; "))
        }
        AcceptableRisk::BypassWrong => {
            let changes = plan.changes.iter().any(|c| c.risks.contains(&ChangeRisk::BypassWrong));
            warning(plan, LintCode::BypassWrong).filter(|_| changes)
        }
        AcceptableRisk::RemovesAll => removed_kinds(&plan.changes),
    };
    AcceptableRisk::ALL
        .into_iter()
        .filter(|risk| !options.accept.contains(risk))
        .find_map(|risk| Some(Refusal::new(risk.as_str(), found(risk)?)))
}

/// The sentence of a warning, with its place.
fn warning(plan: &HostPlan, code: LintCode) -> Option<String> {
    let found = plan.warnings.iter().find(|w| w.code == code)?;
    let origin = found.origin.as_ref().map_or_else(String::new, |o| format!(" ({o})"));
    Some(format!("{}{origin}", found.message))
}

/// Says which kinds of resources the plan takes away altogether. Where sysctl files go and rules come,
/// one cure takes the place of another, and that is no slip.
fn removed_kinds(changes: &[Change]) -> Option<String> {
    use crate::resource::ResourceKind;
    let rules = |c: &Change| matches!(c.kind, ResourceKind::Iptables | ResourceKind::Ip6tables);
    let replaced = changes.iter().any(|c| rules(c) && c.action != super::ChangeAction::Remove);
    let gone = changes.iter().filter(|c| c.risks.contains(&ChangeRisk::RemovesAll));
    let gone = gone.filter(|c| c.kind != ResourceKind::Sysctl || !replaced);
    let kinds: BTreeSet<&str> = gone.map(|c| c.kind.as_str()).collect();
    let list: Vec<&str> = kinds.into_iter().collect();
    (!list.is_empty())
        .then(|| format!("this removes all managed resources of kind {} on the host", list.join(", ")))
}

/// What the host's generation wants; `None` on a host without one. A generation whose record is gone is not that:
/// whoever took it for that would forget what is ours there.
pub(super) fn read_manifest(observed: &Observed) -> Result<Option<GenerationManifest>, Refusal> {
    let error =
        match (observed.state.record.as_deref().map(GenerationManifest::parse), observed.state.generation) {
            (Some(Ok(record)), _) => return Ok(Some(record)),
            (None, None) => return Ok(None),
            (Some(Err(error)), _) => error,
            (None, Some(generation)) => {
                format!("/etc/kvmfw/generations/{generation}/desired.json is missing or empty")
            }
        };
    Err(Refusal::new(
        "unreadable-record",
        format!(
            "cannot read the record of the host's generation: {error}; to return to the generation before, \
             run `/var/lib/kvmfw/kvmfw.sh undo` at its console"
        ),
    ))
}

/// Whether another inventory has the host.
pub(super) fn managed_by(desired: &Desired, observed: &Observed, options: &PlanOptions) -> Option<Refusal> {
    let manager = observed.state.inventory.as_ref()?;
    // A bootstrap holds a host only until an inventory has it.
    if *manager == desired.inventory || manager == BOOTSTRAP || options.reassign {
        return None;
    }
    Some(Refusal::new(
        "managed-by",
        format!(
            "the host is managed by inventory `{manager}`, and this is `{}`; to move it to this inventory, \
             pass --reassign",
            desired.inventory
        ),
    ))
}

/// Why the host must be left alone, whatever the changes are.
pub(super) fn refusal(
    desired: &Desired,
    observed: &Observed,
    options: &PlanOptions,
    sysctl: &sysctl::SysctlPlan,
) -> Option<Refusal> {
    let wants_rules =
        |f: IpFamily| desired.rules.get(&f).is_some_and(|r| !managed_text::render(r).is_empty());
    let managed_by = managed_by(desired, observed, options);
    if managed_by.is_some() {
        return managed_by;
    }
    let mut needs: BTreeSet<&str> = observed
        .facts
        .missing
        .iter()
        .map(String::as_str)
        .filter(|tool| match *tool {
            "iptables-save" => wants_rules(IpFamily::V4),
            "ip6tables-save" => wants_rules(IpFamily::V6),
            "unshare" => IpFamily::ALL.into_iter().any(wants_rules),
            _ => true,
        })
        .collect();
    if !desired.sets.is_empty() && observed.sets.asked && !observed.sets.tool {
        needs.insert("ipset");
    }
    if !needs.is_empty() {
        let list: Vec<&str> = needs.into_iter().collect();
        return Some(Refusal::new(
            "missing-tool",
            match super::packages::install(&list, &observed.facts.os) {
                Some(command) => {
                    format!("the host has no {}; install it: {command}", list.join(", no "))
                }
                None => format!("the host has no {}; install it", list.join(", no ")),
            },
        ));
    }
    if !observed.facts.units {
        return Some(Refusal::new(
            "no-boot",
            "the host has no /etc/systemd/system, so a change could not survive a reboot",
        ));
    }
    if let Some(message) = sysctl.stuck.first() {
        return Some(Refusal::new("read-only-key", message));
    }
    if let Some(file) = sysctl.unmanaged.first() {
        return Some(Refusal::new("unmanaged-owner", file.refusal(options.adopt)));
    }
    IpFamily::ALL
        .into_iter()
        .filter(|f| wants_rules(*f))
        .find_map(|family| refused_rules(family, desired, observed))
}

/// Where the rule was declared that the host named.
fn blamed<'a>(family: IpFamily, desired: &'a Desired, words: &str) -> Option<&'a Origin> {
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
            "firewalld is active or enabled on the host and loads its rules in an undefined order; run \
             systemctl disable --now firewalld, or remove the rules from the inventory"
                .to_owned()
        }
        "ufw" => {
            "ufw is enabled on the host and loads its rules at boot; run ufw disable, or remove the rules \
             from the inventory"
                .to_owned()
        }
        _ => format!(
            "{name}.service is enabled on the host and {file} begins with `flush ruleset`, which removes all \
             rules; delete that line, or run systemctl disable {name}"
        ),
    }
}

pub(super) fn refused_rules(family: IpFamily, desired: &Desired, observed: &Observed) -> Option<Refusal> {
    let rules = observed.rules.get(&family)?;
    if rules.backend == "none" {
        return Some(Refusal::new("missing-tool", format!("the host has no {family}; install it there")));
    }
    if rules.backend == "old" {
        return Some(Refusal::new(
            "missing-tool",
            format!(
                "{family} on the host is too old: its version does not give the backend ({})",
                rules.version
            ),
        ));
    }
    if let Some(manager) = observed.other_filters.managers.first() {
        return Some(Refusal::new("other-firewall", other_firewall(manager)));
    }
    if !rules.live.incompatible.is_empty() {
        return Some(Refusal::new(
            "native-nft",
            format!(
                "the nft table `{}` of {family} has native nft rules or chains, which iptables cannot show; \
                 move them to a separate table",
                rules.live.incompatible.join("`, `")
            ),
        ));
    }
    let digit = if family == IpFamily::V4 { "4" } else { "6" };
    if let Some((backend, count)) =
        observed.other_filters.backend_rules.iter().find(|(b, _)| b.ends_with(digit))
    {
        let other = backend.trim_end_matches(['4', '6']);
        let what = if *count == 1 { "rule or DROP policy is" } else { "rules or DROP policies are" };
        return Some(Refusal::new(
            "mixed-backends",
            format!(
                "{family} on the host uses {}, but {count} {what} loaded in {other}, and both decide; move \
                 the rules, or remove them with {family}-{other} -F and -P CHAIN ACCEPT",
                rules.backend
            ),
        ));
    }
    if let Some(native) = observed.other_filters.native.first() {
        return Some(Refusal::new(
            "native-nft",
            format!(
                "a native nft rule with a set is in a table of iptables, and iptables-save prints it wrong: \
                 {native}"
            ),
        ));
    }
    match &rules.predicted {
        PredictedRules::Refused(words) => {
            let place = blamed(family, desired, words).map_or_else(String::new, |o| format!(" ({o})"));
            let absent = absent_chain(family, desired, words);
            let message = format!("{family} on the host rejected the rules: {words}{place}{absent}");
            Some(Refusal::new("rejected-rule", message))
        }
        PredictedRules::CannotClone(words) => Some(Refusal::new(
            "dry-run-failed",
            format!(
                "the live rules of {family} cannot be loaded in a dry run, so the new rules cannot be proven: \
                 {words}"
            ),
        )),
        _ => None,
    }
}

/// What to do about a rule that jumps to a chain which another program has not made yet.
fn absent_chain(family: IpFamily, desired: &Desired, words: &str) -> String {
    // iptables-nft and iptables-legacy.
    let named = ["Chain '", "load target `"].iter().find_map(|start| words.split_once(start));
    let Some((chain, _)) = named.and_then(|(_, rest)| rest.split_once('\'')) else { return String::new() };
    if chain.starts_with(PREFIX) {
        return String::new();
    }
    let tables = desired.rules.get(&family).into_iter().flat_map(|rules| rules.tables.values());
    let mut rules = tables.flat_map(|table| table.chains.values()).flat_map(|chain| chain.rules.iter());
    let enters =
        |text: &str| text.ends_with(&format!("-j {chain}")) || text.ends_with(&format!("-g {chain}"));
    if !rules.any(|rule| enters(&rule.text)) {
        return String::new();
    }
    let own = match ADMINISTRATORS.contains(&chain) {
        true => format!(", or write the rules under `{chain}`, where they wait for it"),
        false => String::new(),
    };
    format!("; another program creates the chain {chain}: start that program first{own}")
}

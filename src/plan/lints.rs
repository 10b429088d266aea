//! What the rules will do to people, said before they do it.

use super::rules::{RulesPlan, origins};
use super::surroundings::surroundings;
use super::{HostPlan, Risk};
use crate::desired::Desired;
use crate::netfilter::{
    BridgeView, Dark, Ruleset, SshCase, SshPath, SshSummary, Step, dead_rules, guests_dark, ssh_lockout,
};
use crate::observe::{Live, Observed};
use crate::problem::{Origin, Warning};
use crate::resource::Kind;
use crate::resource::iptables::save::Save;
use crate::resource::iptables::{Family, HOOK_COMMENT, PREFIX};
use std::collections::BTreeSet;

/// Warns and marks risks.
pub(super) fn judge(desired: &Desired, observed: &Observed, rules: &[RulesPlan; 2], plan: &mut HostPlan) {
    for (family, planned) in Family::ALL.into_iter().zip(rules) {
        let Some(there) = observed.rules.get(&family) else { continue };
        let view = View { family, desired, observed, live: &there.live, predicted: &planned.predicted };
        let before = Ruleset::new(&there.live);
        let after = Ruleset::new(&planned.predicted);
        view.guests(&before, &after, plan);
        view.lockout(&after, plan);
        view.dead(&after, plan);
        view.starved(&after, plan);
        view.outranked(plan);
    }
}

struct View<'a> {
    family: Family,
    desired: &'a Desired,
    observed: &'a Observed,
    live: &'a Save,
    predicted: &'a Save,
}

impl View<'_> {
    /// Bridges whose guests no longer reach each other.
    fn guests(&self, before: &Ruleset, after: &Ruleset, plan: &mut HostPlan) {
        let mut bridges: BTreeSet<String> = self.observed.links.bridges().map(|l| l.name.clone()).collect();
        bridges.extend(self.desired.bridges.keys().cloned());
        for name in bridges {
            let around = &surroundings(self.observed, self.family);
            let was = guests_dark(before, around, self.family, &self.bridge(&name, false));
            let Some(dark) = guests_dark(after, around, self.family, &self.bridge(&name, true)) else {
                continue;
            };
            let message = self.dark_message(&name, &dark, was.is_some());
            plan.warnings.push(Warning { code: "guests-dark", message, origin: self.origin_of(&dark.step) });
            if was.is_none() {
                let chain = format!("{}/{}", dark.step.table, plain(&dark.step.chain));
                mark(plan, Risk::GuestsDark, |c| {
                    let rules = c.kind == kind(self.family);
                    rules && (c.resource == chain || c.resource == "filter/FORWARD") || c.kind == Kind::Sysctl
                });
            }
        }
    }

    fn bridge(&self, name: &str, after: bool) -> BridgeView {
        let knob = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let key = format!("net/bridge/bridge-nf-call-{knob}");
        let live = match self.observed.sysctl.get(&key) {
            Some(Live::Value(value)) => Some(value.trim() != "0"),
            _ => None,
        };
        let wanted = self
            .desired
            .sysctl
            .values()
            .flat_map(|f| &f.entries)
            .find(|e| e.key.path() == key)
            .map(|e| e.value.trim() != "0");
        // Without the module no bridged frame meets iptables; a rule that loads it brings it at 1.
        let loads = self
            .desired
            .rules
            .values()
            .flat_map(|r| r.tables.values())
            .flat_map(|t| t.chains.values())
            .flat_map(|c| &c.rules)
            .any(|r| r.module == Some("br_netfilter"));
        let global = if after {
            wanted.or(live).unwrap_or(false) || live.is_none() && loads && wanted != Some(false)
        } else {
            live.unwrap_or(false)
        };
        let own = self.observed.links.by_name.get(name).and_then(|l| l.number(&format!("nf_call_{knob}")));
        BridgeView {
            name: name.to_owned(),
            ports: self.observed.links.ports(name).map(|p| p.name.clone()).collect(),
            nf_call: global || own.is_some_and(|v| v != 0),
        }
    }

    fn dark_message(&self, bridge: &str, dark: &Dark, already: bool) -> String {
        let dropped = dark.dropped.join(", ");
        let which = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let will = if already { "are" } else { "will be" };
        format!(
            "guests on {bridge} {will} unreachable over {which} ({dropped}): bridged frames pass FORWARD because \
             bridge-nf-call-{} is 1, and {} decides. Cures: module bridge-bypass (no host rule sees bridged frames any \
             more), bridge-accept-each (one accept per bridge) or bridge-accept-physdev (accepts all bridged frames)",
            if self.family == Family::V4 { "iptables" } else { "ip6tables" },
            say(&dark.step),
        )
    }

    /// The connection that reads this plan, and the next one.
    fn lockout(&self, after: &Ruleset, plan: &mut HostPlan) {
        let Some(ends) = &self.observed.facts.ssh else { return };
        if ends.server.is_ipv4() != (self.family == Family::V4) {
            return;
        }
        if self.live == self.predicted {
            return;
        }
        let server = ends.server.to_string();
        let links = &self.observed.links.by_name;
        let link = links.values().find(|l| l.addresses.iter().any(|a| a.local == server));
        let number = |key: &str| match self.observed.sysctl.get(key) {
            Some(Live::Value(value)) => value.trim().parse::<i64>().ok(),
            _ => None,
        };
        let near = link.filter(|l| {
            l.addresses.iter().any(|a| {
                format!("{}/{}", a.local, a.prefix)
                    .parse::<ipnet::IpNet>()
                    .is_ok_and(|net| net.contains(&ends.client))
            })
        });
        let path = SshPath {
            family: self.family,
            src: ends.client,
            dst: ends.server,
            sport: ends.client_port,
            dport: ends.server_port,
            in_iface: near.map(|l| l.name.clone()),
            out_iface: near.map(|l| l.name.clone()),
            conntrack_active_before: tracks(self.live),
            tcp_loose: number("net/netfilter/nf_conntrack_tcp_loose").unwrap_or(1) != 0,
        };
        let what = |which: SshCase| match which {
            SshCase::Established => "the open SSH connection",
            SshCase::Pickup => {
                "the open SSH connection (conntrack was not active before and will see it as new)"
            }
            SshCase::New => "every new SSH connection",
            SshCase::Reply => "what the host answers over SSH",
            SshCase::Neighbour => "IPv6 neighbour discovery, and with it SSH",
        };
        let (code, which, step) = match ssh_lockout(after, &surroundings(self.observed, self.family), &path)
            .summary()
        {
            SshSummary::Safe => return,
            // New connections are made all the same, and one of those confirms.
            SshSummary::LockedOut { which: SshCase::Pickup, step } => ("session-dies", SshCase::Pickup, step),
            SshSummary::LockedOut { which, step } => ("lockout", which, step),
            SshSummary::Unknown { which, step } => ("lockout-unknown", which, step),
        };
        let by = step.as_ref().map_or_else(|| "the rules".to_owned(), say);
        let message = if code == "lockout" {
            format!(
                "LOCKOUT: {} from {} to port {} will be cut by {by}; the apply will be rolled back",
                what(which),
                ends.client,
                ends.server_port
            )
        } else if code == "session-dies" {
            format!("{} will be cut by {by}; new ones are not", what(which))
        } else {
            format!("whether {} survives cannot be told: it depends on {by}", what(which))
        };
        plan.warnings.push(Warning { code, message, origin: step.as_ref().and_then(|s| self.origin_of(s)) });
        if code == "lockout" {
            mark(plan, Risk::Lockout, |c| {
                c.kind == kind(self.family) && c.risks.contains(&Risk::ManagementPath)
            });
        }
    }

    /// Rules of ours that no packet reaches.
    fn dead(&self, after: &Ruleset, plan: &mut HostPlan) {
        for (table, chain) in self.predicted.own_chains() {
            for dead in dead_rules(after, table, &chain.name) {
                let (Some(rule), Some(wall)) =
                    (chain.rules.get(dead.index - 1), chain.rules.get(dead.shadowed_by - 1))
                else {
                    continue;
                };
                let origin = self.rule_origin(table, &chain.name, dead.index);
                plan.warnings.push(Warning {
                    code: "dead-rule",
                    message: format!(
                        "{} {table}/{} rule {}: `{rule}` is never reached, because rule {} before it decides: `{wall}`",
                        self.family,
                        plain(&chain.name),
                        dead.index,
                        dead.shadowed_by
                    ),
                    origin,
                });
            }
        }
    }

    /// Foreign rules that our hook leaves nothing for.
    fn starved(&self, after: &Ruleset, plan: &mut HostPlan) {
        for hook in self.predicted.hooks() {
            let Some(chain) = self.predicted.chain(hook.table, hook.chain) else { continue };
            let starved: Vec<&str> = dead_rules(after, hook.table, hook.chain)
                .iter()
                .filter(|d| d.shadowed_by == hook.position)
                .filter_map(|d| chain.rules.get(d.index - 1))
                .map(String::as_str)
                .collect();
            if let Some(first) = starved.first() {
                let more = match starved.len() {
                    1 => String::new(),
                    n => format!(" and {} more", n - 1),
                };
                plan.warnings.push(Warning {
                    code: "starves-foreign",
                    message: format!(
                        "{} {}/{}: ours decides about every packet, so rules of others after it never match: `{first}`{more}",
                        self.family, hook.table, hook.chain
                    ),
                    origin: self.chain_origin(hook.table, &hook.target),
                });
            }
        }
    }

    /// Foreign rules that stand before our hook and decide.
    fn outranked(&self, plan: &mut HostPlan) {
        for hook in self.predicted.hooks() {
            let Some(chain) = self.predicted.chain(hook.table, hook.chain) else { continue };
            let before = chain.rules.iter().take(hook.position - 1);
            let decides: Vec<&String> =
                before.filter(|r| !r.contains(HOOK_COMMENT) && may_decide(r)).collect();
            if let Some(first) = decides.first() {
                plan.warnings.push(Warning {
                    code: "hook-outranked",
                    message: format!(
                        "{} {}/{}: {} stands before our hook and decides first: `{first}`; `hook: first` would move ours up",
                        self.family,
                        hook.table,
                        hook.chain,
                        writer(first)
                    ),
                    origin: self.chain_origin(hook.table, &hook.target),
                });
            }
        }
    }

    fn origin_of(&self, step: &Step) -> Option<Origin> {
        self.rule_origin(&step.table, &step.chain, step.index?)
    }

    fn rule_origin(&self, table: &str, chain: &str, index: usize) -> Option<Origin> {
        let declared = self.desired.rules.get(&self.family)?.tables.get(table)?.chains.get(chain)?;
        let count = self.predicted.chain(table, chain)?.rules.len();
        origins(declared, count).into_iter().nth(index.checked_sub(1)?)?
    }

    fn chain_origin(&self, table: &str, chain: &str) -> Option<Origin> {
        Some(self.desired.rules.get(&self.family)?.tables.get(table)?.chains.get(chain)?.origin.clone())
    }
}

fn kind(family: Family) -> Kind {
    match family {
        Family::V4 => Kind::Iptables,
        Family::V6 => Kind::Ip6tables,
    }
}

fn mark(plan: &mut HostPlan, risk: Risk, which: impl Fn(&super::Change) -> bool) {
    for change in plan.changes.iter_mut().filter(|c| which(c)) {
        if !change.risks.contains(&risk) {
            change.risks.push(risk);
        }
    }
}

fn plain(chain: &str) -> &str {
    chain.strip_prefix(PREFIX).unwrap_or(chain)
}

/// A step in the words of the inventory.
fn say(step: &Step) -> String {
    match step.index {
        Some(index) => format!("{}/{} rule {index} `{}`", step.table, plain(&step.chain), step.text),
        None if step.chain.is_empty() => format!("{}, which {}", step.table, step.text),
        None => format!("the policy of {}/{} ({})", step.table, step.chain, step.text),
    }
}

/// Whether a foreign rule can decide: anything but the targets that let the packet go on.
fn may_decide(rule: &str) -> bool {
    let target = crate::resource::iptables::save::jump(rule).map(|j| j.target);
    target
        .is_some_and(|t| !matches!(t.as_str(), "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CLASSIFY"))
}

/// Who writes such rules.
fn writer(rule: &str) -> &'static str {
    let target = crate::resource::iptables::save::jump(rule).map(|j| j.target).unwrap_or_default();
    for (start, who) in [
        ("DOCKER", "Docker"),
        ("LIBVIRT_", "libvirt"),
        ("f2b-", "fail2ban"),
        ("KUBE-", "kube-proxy"),
        ("cali-", "Calico"),
        ("ufw", "ufw"),
        ("PVEFW-", "pve-firewall"),
        ("neutron-", "neutron"),
    ] {
        if target.starts_with(start) {
            return who;
        }
    }
    "a rule of somebody else"
}

/// Whether conntrack is active already: some rule asks it.
fn tracks(save: &Save) -> bool {
    let asks = |rule: &String| {
        ["-m state ", "-m conntrack ", "--ctstate", "-j MASQUERADE", "-j DNAT", "-j SNAT", "-j REDIRECT"]
            .iter()
            .any(|w| rule.contains(w))
    };
    save.tables.values().flat_map(|t| t.chains()).flat_map(|c| &c.rules).any(asks)
}

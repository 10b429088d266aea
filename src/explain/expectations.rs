//! Whether packets do what an inventory expects of them, on a host as it is or as it will be.

use super::context::{ExplainContext, RulePlace};
use super::path::{PacketReport, packet_report};
use super::samples::{MAX_RANGES, endpoints, guest_addresses, own_addresses};
use crate::expectation::{
    Expectation, ExpectedVerdict, PacketEndpoint, PacketQuery, PacketTransport, RewrittenDestination,
};
use crate::host_state::Observed;
use crate::impact::{FlowVerdict, ImpactLine};
use crate::plan::{HostPlan, PlanOptions};
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::iptables::{IpFamily, PREFIX};

/// Most packets that are simulated for one expectation of one host.
const MAX_PACKETS: usize = 20_000;

/// Whether an expectation holds. The order is that of what matters more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpectationState {
    /// Every packet that is meant does as expected.
    Met,
    /// For some packet that cannot be said, and for none the contrary.
    Unknown,
    /// Some packet does not.
    Broken,
}

/// An expectation, and what becomes of its packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectationReport {
    /// Whether it holds.
    pub state: ExpectationState,
    /// What becomes of the packet that decides that.
    pub verdict: FlowVerdict,
    /// The rule that decides about that packet, in the words of the inventory, and where it was written.
    pub by: Option<(String, Option<Origin>)>,
    /// Which packet it is and what becomes of it, in words; or why nothing can be said.
    pub detail: String,
    /// The host has what it names.
    has_ends: bool,
}

impl ExpectationReport {
    fn unknown(detail: String) -> Self {
        let (state, verdict) = (ExpectationState::Unknown, FlowVerdict::Unknown);
        Self { state, verdict, by: None, detail, has_ends: false }
    }
}

/// Simulates the packets of an expectation.
pub fn judge_expectation(scene: &ExplainContext<'_>, expectation: &Expectation) -> ExpectationReport {
    let families = IpFamily::ALL.into_iter().filter(|family| {
        let of = |end: &PacketEndpoint| end.is_ipv4().is_none_or(|v4| v4 == (*family == IpFamily::V4));
        let rewritten =
            expectation.rewritten_to.is_none_or(|to| to.address.is_ipv4() == (*family == IpFamily::V4));
        of(&expectation.from) && of(&expectation.to.endpoint) && rewritten
    });
    let mut judge = ExpectationJudge { scene, expectation, packets: MAX_PACKETS, worst: None };
    for family in families {
        if let Err(why) = judge.family(family) {
            judge.note(ExpectationReport::unknown(why));
        }
    }
    judge.worst.unwrap_or_else(|| ExpectationReport::unknown("it means no packet".to_owned()))
}

struct ExpectationJudge<'a> {
    scene: &'a ExplainContext<'a>,
    expectation: &'a Expectation,
    /// How many packets may still be simulated.
    packets: usize,
    worst: Option<ExpectationReport>,
}

impl ExpectationJudge<'_> {
    fn note(&mut self, report: ExpectationReport) {
        if self.worst.as_ref().is_none_or(|worst| report.state > worst.state) {
            self.worst = Some(report);
        }
    }

    fn is_broken(&self) -> bool {
        self.worst.as_ref().is_some_and(|worst| worst.state == ExpectationState::Broken)
    }

    fn family(&mut self, family: IpFamily) -> Result<(), String> {
        let from = endpoints(self.scene, family, &self.expectation.from)?;
        let to = endpoints(self.scene, family, &self.expectation.to.endpoint)?;
        for from in &from {
            let mut others: Vec<&PacketEndpoint> = to.iter().filter(|to| *to != from).collect();
            if others.is_empty() && self.expectation.from == self.expectation.to.endpoint {
                // The only guest of a bridge: another one to come is meant.
                others.push(&self.expectation.to.endpoint);
            }
            for to in others {
                for transport in self.expectation.transports() {
                    let query = PacketQuery {
                        from: Some(from.clone()),
                        to: to.clone(),
                        source: None,
                        port: self.expectation.to.port,
                        transport: *transport,
                        device: self.expectation.device.clone(),
                        bridge: self.expectation.bridge.clone(),
                        established: self.expectation.established,
                    };
                    self.query(family, &query)?;
                    if self.is_broken() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Simulates a packet. Where its verdict depends on something that is not written, it is simulated with each value.
    fn query(&mut self, family: IpFamily, query: &PacketQuery) -> Result<(), String> {
        self.packets = self
            .packets
            .checked_sub(1)
            .ok_or_else(|| format!("it means more than {MAX_PACKETS} packets that rules tell apart"))?;
        let report = packet_report(self.scene, query, family)?;
        let variants = match report.verdict.verdict {
            "unknown" => self.variants(family, query, &report)?,
            _ => Vec::new(),
        };
        if variants.is_empty() {
            self.note(self.judged(family, query, &report));
            return Ok(());
        }
        for variant in variants {
            self.query(family, &variant)?;
            if self.is_broken() {
                break;
            }
        }
        Ok(())
    }

    /// The same packet with each value of the first thing that its verdict depends on.
    fn variants(
        &self,
        family: IpFamily,
        query: &PacketQuery,
        report: &PacketReport,
    ) -> Result<Vec<PacketQuery>, String> {
        let depends =
            |facts: &[&str]| report.verdict.missing.iter().any(|fact| facts.contains(&fact.as_str()));
        let has_ports = query.transport != PacketTransport::Icmp;
        if has_ports && query.port.is_none() && depends(&["destination port", "ports"]) {
            let rules = self.scene.sets.get(&family);
            let ports = rules.map_or(Some(Vec::new()), |rules| rules.distinct_ports(MAX_RANGES));
            let ports =
                ports.ok_or_else(|| format!("rules divide the ports into more than {MAX_RANGES} ranges"))?;
            return Ok(ports
                .into_iter()
                .map(|port| PacketQuery { port: Some(port), ..query.clone() })
                .collect());
        }
        if query.to == PacketEndpoint::Host && depends(&["destination address"]) {
            let own = own_addresses(self.scene, family).into_iter().map(PacketEndpoint::Address);
            return Ok(own.map(|to| PacketQuery { to, ..query.clone() }).collect());
        }
        let from = query.from.as_ref().filter(|_| query.source.is_none());
        if let (Some(from), true) = (from, depends(&["source address"])) {
            let sources = guest_addresses(self.scene, family, from).into_iter();
            return Ok(sources.map(|source| PacketQuery { source: Some(source), ..query.clone() }).collect());
        }
        Ok(Vec::new())
    }

    fn judged(&self, family: IpFamily, query: &PacketQuery, report: &PacketReport) -> ExpectationReport {
        let found = &report.verdict;
        let verdict = match found.verdict {
            "passes" if report.is_rewritten() => FlowVerdict::Rewritten,
            "passes" => FlowVerdict::Open,
            "dropped" => FlowVerdict::Blocked,
            _ => FlowVerdict::Unknown,
        };
        let passes = matches!(verdict, FlowVerdict::Open | FlowVerdict::Rewritten);
        let elsewhere =
            self.expectation.rewritten_to.filter(|_| passes).and_then(|to| goes_elsewhere(to, report));
        let state = match (verdict, self.expectation.verdict) {
            (FlowVerdict::Unknown, _) => ExpectationState::Unknown,
            (FlowVerdict::Blocked, ExpectedVerdict::Passes) => ExpectationState::Broken,
            (FlowVerdict::Open | FlowVerdict::Rewritten, ExpectedVerdict::Blocked) => {
                ExpectationState::Broken
            }
            _ => match &elsewhere {
                Some((state, _)) => *state,
                None => ExpectationState::Met,
            },
        };
        let by = found.by.as_ref().map(|by| (plain_name(by), by.origin.clone()));
        let detail = self.words(family, query, report, elsewhere.map(|(_, to)| to));
        ExpectationReport { state, verdict, by, detail, has_ends: true }
    }

    /// `new tcp connection from vnet0 to 192.0.2.53 port 53 over IPv4 is blocked by filter/FORWARD rule 4 …`.
    fn words(
        &self,
        family: IpFamily,
        query: &PacketQuery,
        report: &PacketReport,
        elsewhere: Option<String>,
    ) -> String {
        let found = &report.verdict;
        let which = if family == IpFamily::V4 { "IPv4" } else { "IPv6" };
        let source = query.source.map_or_else(String::new, |source| format!(" ({source})"));
        let is = match found.verdict {
            "passes" => "passes",
            "dropped" => "is blocked",
            _ => "is undecided",
        };
        let by_or_at = if found.verdict == "unknown" { "at" } else { "by" };
        let by = found.by.as_ref().map_or_else(String::new, |by| {
            let origin = by.origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
            format!(" {by_or_at} {} `{}`{origin}", plain_name(by), by.text)
        });
        let because = found.because.as_ref().map_or_else(String::new, |because| format!(": {because}"));
        let elsewhere = elsewhere.map_or_else(String::new, |to| format!(", and goes to {to}"));
        let notes = report.route.notes.iter().fold(String::new(), |all, note| format!("{all}; {note}"));
        format!("{}{source} over {which} {is}{by}{because}{elsewhere}{notes}", report.packet)
    }
}

/// `filter/FORWARD rule 1`, also where the host has the rule in `KVMFW-FORWARD`.
fn plain_name(by: &RulePlace) -> String {
    let chain = by.chain.strip_prefix(PREFIX).unwrap_or(&by.chain).to_owned();
    RulePlace { chain, ..by.clone() }.name()
}

/// What a packet's destination is in the end, where it is not the expected one or not known.
fn goes_elsewhere(to: RewrittenDestination, report: &PacketReport) -> Option<(ExpectationState, String)> {
    let (address, port) = report.destination();
    let Some(address) = address else {
        return Some((ExpectationState::Unknown, "an address that is not known".to_owned()));
    };
    if address != to.address {
        return Some((ExpectationState::Broken, RewrittenDestination { address, port }.to_string()));
    }
    match (to.port, port) {
        (Some(wanted), Some(port)) if wanted != port => {
            Some((ExpectationState::Broken, RewrittenDestination { address, port: Some(port) }.to_string()))
        }
        (Some(_), None) => {
            Some((ExpectationState::Unknown, format!("a port of {address} that is not known")))
        }
        _ => None,
    }
}

/// Adds to a plan what the expectations of its host come to: a broken one refuses the host.
pub fn judge_plan(plan: &mut HostPlan, desired: &Desired, observed: &Observed, options: &PlanOptions) {
    let failed_dry_run = plan.refusal().is_some_and(|refusal| refusal.is_failure());
    if desired.expectations.is_empty() || failed_dry_run {
        return;
    }
    let before = ExplainContext::new(&desired.host, observed, None);
    let after = (!options.drift).then(|| ExplainContext::new(&desired.host, observed, Some(desired)));
    let mut broken = Vec::new();
    for expectation in &desired.expectations {
        let was = judge_expectation(&before, expectation);
        let is = after.as_ref().map_or_else(|| was.clone(), |after| judge_expectation(after, expectation));
        if was.verdict != is.verdict {
            let (by, origin) = is.by.clone().unzip();
            plan.impact.push(ImpactLine {
                flow: format!("expectation `{expectation}`"),
                before: was.verdict,
                after: is.verdict,
                by,
                origin: origin.flatten(),
            });
        }
        plan.warnings.extend(warning(expectation, &is));
        if is.state == ExpectationState::Broken {
            broken.push(does_not_hold(expectation, &is));
        }
    }
    // An undo is the way out of a bad state: it is told what it breaks, and not kept from it.
    let refuses = !options.drift && options.restore.is_none() && !options.purge;
    plan.finish_expectations((!broken.is_empty()).then(|| broken.join("; ")), refuses);
}

/// ``the expectation `passes: …` (FILE:LINE) does not hold: a new tcp connection … is blocked by …``
fn does_not_hold(expectation: &Expectation, report: &ExpectationReport) -> String {
    format!("the expectation `{expectation}` ({}) does not hold: {}", expectation.origin, report.detail)
}

fn warning(expectation: &Expectation, report: &ExpectationReport) -> Option<Warning> {
    let (code, finding, fix) = match report.state {
        ExpectationState::Met => return None,
        ExpectationState::Broken => (
            LintCode::ExpectationBroken,
            format!("the expectation `{expectation}` does not hold"),
            "correct the rules, or the expectation",
        ),
        ExpectationState::Unknown => (
            LintCode::ExpectationUnknown,
            format!("cannot tell whether the expectation `{expectation}` holds"),
            match report.has_ends {
                true => "write the address, the port or the protocol that it depends on",
                false => "correct `from` or `to`",
            },
        ),
    };
    let message = WarningMessage::new(finding).cause(report.detail.clone()).fix(fix);
    Some(Warning::new(code, message, Some(expectation.origin.clone())))
}

/// Expectations that the declared rules break whatever the host is like, each with what becomes of its packets.
pub fn broken_offline(desired: &Desired) -> Vec<(&Expectation, String)> {
    if desired.expectations.is_empty() {
        return Vec::new();
    }
    let host = ExplainContext::offline_host(desired);
    let scene = ExplainContext::offline(desired, &host);
    let broken = desired.expectations.iter().filter_map(|expectation| {
        let report = judge_expectation(&scene, expectation);
        (report.state == ExpectationState::Broken).then_some((expectation, report.detail))
    });
    broken.collect()
}

/// The first expectation that a host breaks as it is.
pub fn broken_live(desired: &Desired, observed: &Observed) -> Option<String> {
    let scene = ExplainContext::new(&desired.host, observed, None);
    desired.expectations.iter().find_map(|expectation| {
        let report = judge_expectation(&scene, expectation);
        (report.state == ExpectationState::Broken).then(|| does_not_hold(expectation, &report))
    })
}

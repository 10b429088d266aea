//! What a rollout minds about a host beside its own change: with whom it may change, and when.

use super::Desired;
use crate::inventory::{Lineage, Spanned};
use crate::problem::Warning;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A jump host, and who is reached through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its name or address.
    pub hop: String,
    /// The hosts behind it, in a few words.
    pub leads_to: String,
}

/// When a host's turn may come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Groups of which only so many hosts change at once, and how many.
    pub max_in_flight: Vec<(String, usize)>,
    /// How many jumps lead on from it, at most. What cuts off a host that leads to others cuts those off too, so it
    /// changes alone, after all that lead nowhere and after those that it leads to. [`usize::MAX`]: last of all.
    pub leads: usize,
    /// It had not answered when the others began: it gets a turn when it has.
    pub late: bool,
}

impl Turn {
    /// The limits of a host's groups; who is a jump host shows only in all hosts together.
    pub fn of(lineage: &Lineage) -> Self {
        let limit = |group: &str, limit: &Spanned<usize>| (group.to_owned(), limit.value);
        let limits = lineage.iter().map(|(_, group)| group);
        Self {
            max_in_flight: limits
                .filter_map(|g| g.entry.max_in_flight.as_ref().map(|l| limit(&g.name, l)))
                .collect(),
            leads: 0,
            late: false,
        }
    }
}

/// Marks the hosts that are the way to others, and warns of them.
pub fn jump_hosts(all: &mut [Desired]) {
    let mut behind: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, desired) in all.iter().enumerate() {
        for hop in desired.connection.jump.iter().flat_map(|jump| jump.split(',')) {
            behind.entry(hop_name(hop).to_owned()).or_default().push(at);
        }
    }
    let names = |hosts: &[usize]| {
        let mut names: Vec<&str> = hosts.iter().map(|at| all[*at].host.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        first_and_more(&names)
    };
    let addresses: BTreeMap<&String, &String> =
        all.iter().map(|d| (&d.host, &d.connection.address)).collect();
    let ways: Arc<[Way]> = behind
        .iter()
        .map(|(hop, hosts)| Way {
            hop: addresses.get(hop).map_or_else(|| hop.clone(), |address| (*address).clone()),
            leads_to: names(hosts).unwrap_or_default(),
        })
        .collect();
    let mut led: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut warnings = Vec::new();
    for (at, desired) in all.iter().enumerate() {
        let by = |name: &String| behind.get(name).into_iter().flatten().copied();
        let hosts: Vec<usize> =
            by(&desired.host).chain(by(&desired.connection.address)).filter(|other| *other != at).collect();
        if let Some(names) = names(&hosts) {
            warnings.push((at, warning(&names, "`jump`")));
            led.insert(at, hosts);
        }
    }
    let mut leads = vec![0; all.len()];
    jumps(&led, &mut leads);
    for (desired, leads) in all.iter_mut().zip(leads) {
        desired.ways = ways.clone();
        desired.turn.leads = leads;
    }
    for (at, warning) in warnings {
        all[at].warnings.push(warning);
    }
}

/// Says that a host is the way to others, and from what one knows it.
pub fn warning(leads_to: &str, from: &str) -> Warning {
    let message = format!(
        "this host is the jump host for {leads_to} ({from}): a change that cuts it off cuts them off too; it \
         is changed alone, and last"
    );
    Warning { code: "jump-host", message, origin: None }
}

/// How many jumps lead on from each host: one more than from any host behind it. `leads` is what is known
/// already, and only grows.
pub fn jumps(behind: &BTreeMap<usize, Vec<usize>>, leads: &mut [usize]) {
    // Each round sees one jump further; ways in a circle end with the rounds.
    for _ in 0..behind.len() {
        let before = leads.to_vec();
        for (host, others) in behind {
            let most = others.iter().map(|other| leads[*other].saturating_add(1)).max().unwrap_or(1);
            leads[*host] = leads[*host].max(most);
        }
        if before == leads {
            return;
        }
    }
}

/// Names in a few words; `None` of none.
pub fn first_and_more(names: &[&str]) -> Option<String> {
    let (first, rest) = names.split_first()?;
    Some(if rest.is_empty() { (*first).to_owned() } else { format!("{first} and {} more", rest.len()) })
}

/// The host of `user@host:port`, as ProxyJump takes it.
fn hop_name(hop: &str) -> &str {
    let hop = hop.trim().trim_start_matches("ssh://");
    let hop = hop.rsplit_once('@').map_or(hop, |(_, host)| host);
    if let Some(rest) = hop.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match hop.split_once(':') {
        // More than one colon is an address of IPv6.
        Some((host, port)) if !port.contains(':') => host,
        _ => hop,
    }
}

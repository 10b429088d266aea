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
    /// Other hosts are reached through it: what cuts it off cuts them off, so it changes alone and last.
    pub jump_host: bool,
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
            jump_host: false,
        }
    }
}

/// Marks the hosts that are the way to others, and warns of them.
pub fn jump_hosts(all: &mut [Desired]) {
    let mut behind: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for desired in all.iter() {
        for hop in desired.connection.jump.iter().flat_map(|jump| jump.split(',')) {
            behind.entry(hop_name(hop).to_owned()).or_default().push(desired.host.clone());
        }
    }
    let at: BTreeMap<&String, &String> = all.iter().map(|d| (&d.host, &d.connection.address)).collect();
    let ways: Arc<[Way]> = behind
        .iter()
        .map(|(hop, hosts)| Way {
            hop: at.get(hop).map_or_else(|| hop.clone(), |address| (*address).clone()),
            leads_to: first_and_more(&hosts.iter().collect::<Vec<_>>()).unwrap_or_default(),
        })
        .collect();
    for desired in all.iter_mut() {
        desired.ways = ways.clone();
        let by = |name: &String| behind.get(name).into_iter().flatten();
        let mut names: Vec<&String> = by(&desired.host).chain(by(&desired.connection.address)).collect();
        names.sort();
        names.dedup();
        names.retain(|name| **name != desired.host);
        let Some(names) = first_and_more(&names) else { continue };
        let message = format!(
            "this host is the way to {names} (`jump`): what cuts it off cuts them off too; it is changed alone, and last"
        );
        desired.turn.jump_host = true;
        desired.warnings.push(Warning { code: "jump-host", message, origin: None });
    }
}

fn first_and_more(names: &[&String]) -> Option<String> {
    let (first, rest) = names.split_first()?;
    Some(if rest.is_empty() { (*first).clone() } else { format!("{first} and {} more", rest.len()) })
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

//! Jump hosts by what the hosts observed: a jump that only ssh_config has, or kvmfw run on one of the hosts.

use super::depth::{JumpRole, deepen, summary};
use crate::host_state::Observed;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Both ends of the connection that probed a host, as the host itself reports them.
#[derive(Clone, Debug)]
pub struct HostEndpoints {
    client: Option<IpAddr>,
    /// Global addresses of the host.
    own: Vec<IpAddr>,
}

impl From<&Observed> for HostEndpoints {
    fn from(observed: &Observed) -> Self {
        let addresses = observed.links.by_name.values().flat_map(|link| &link.addresses);
        let global = addresses.filter(|address| address.scope == "global");
        Self {
            client: observed.facts.ssh.as_ref().map(|ssh| ssh.client.to_canonical()),
            own: global.filter_map(|address| address.local.parse().ok()).collect(),
        }
    }
}

/// Routes of the hosts that have been probed, by their position in the run.
#[derive(Debug, Default)]
pub struct ObservedRoutes(BTreeMap<usize, ProbedHost>);

#[derive(Debug)]
struct ProbedHost {
    host: String,
    /// Jump depth by the inventory.
    declared_depth: usize,
    endpoints: HostEndpoints,
}

impl ObservedRoutes {
    /// Adds a host. `declared_depth` is its jump depth by the inventory.
    pub fn insert(&mut self, position: usize, host: &str, declared_depth: usize, endpoints: HostEndpoints) {
        self.0.insert(position, ProbedHost { host: host.to_owned(), declared_depth, endpoints });
    }

    /// Hosts through which other probed hosts were reached, by position.
    pub fn roles(&self) -> BTreeMap<usize, JumpRole> {
        let behind = self.behind();
        let hosts: Vec<(usize, &ProbedHost)> =
            self.0.iter().map(|(position, host)| (*position, host)).collect();
        let mut depths: Vec<usize> = hosts.iter().map(|(_, host)| host.declared_depth).collect();
        deepen(&behind, &mut depths);
        let role = |(host, others): (&usize, &Vec<usize>)| {
            let names = others.iter().map(|other| hosts[*other].1.host.as_str()).collect();
            let role = JumpRole::new(depths[*host], &summary(names)?, "they were probed from its address");
            Some((hosts[*host].0, role))
        };
        behind.iter().filter_map(role).collect()
    }

    /// Maps each host to the hosts that were reached through it, by their order among the probed hosts.
    fn behind(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut owners: BTreeMap<IpAddr, Option<usize>> = BTreeMap::new();
        for (host, probed) in self.0.values().enumerate() {
            for address in &probed.endpoints.own {
                // An address that several hosts have (libvirt's 192.168.122.1, a VIP) identifies none of them.
                owners
                    .entry(*address)
                    .and_modify(|one| *one = one.filter(|one| *one == host))
                    .or_insert(Some(host));
            }
        }
        let mut behind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (host, probed) in self.0.values().enumerate() {
            let jump_host = probed.endpoints.client.and_then(|client| owners.get(&client).copied().flatten());
            if let Some(jump_host) = jump_host.filter(|jump_host| *jump_host != host) {
                behind.entry(jump_host).or_default().push(host);
            }
        }
        behind
    }
}

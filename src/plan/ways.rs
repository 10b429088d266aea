//! Hosts that are the way to others, by what the hosts saw: a jump that only ssh_config knows, or kvmfw run on
//! one of the hosts.

use super::HostPlan;
use crate::desired::{first_and_more, jump_warning, jumps};
use crate::observe::Observed;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who asked a host, and where it is, as it sees that itself.
#[derive(Clone, Debug)]
pub struct Ends {
    client: Option<IpAddr>,
    own: Vec<IpAddr>,
}

impl Ends {
    /// Of one host.
    pub fn of(observed: &Observed) -> Self {
        let addresses = observed.links.by_name.values().flat_map(|link| &link.addresses);
        let global = addresses.filter(|address| address.scope == "global");
        Self {
            client: observed.facts.ssh.as_ref().map(|ssh| ssh.client.to_canonical()),
            own: global.filter_map(|address| address.local.parse().ok()).collect(),
        }
    }
}

/// Marks the plans of hosts from which others were reached, and warns of them. `leads` is what the inventory
/// says of each.
pub fn seen(plans: &mut [(&mut HostPlan, Ends)], leads: &[usize]) {
    let mut at: BTreeMap<IpAddr, Option<usize>> = BTreeMap::new();
    for (host, (_, ends)) in plans.iter().enumerate() {
        for address in &ends.own {
            // What many have (libvirt's 192.168.122.1, a VIP) tells of none of them.
            at.entry(*address).and_modify(|one| *one = one.filter(|one| *one == host)).or_insert(Some(host));
        }
    }
    let mut behind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (host, (_, ends)) in plans.iter().enumerate() {
        let way = ends.client.and_then(|client| at.get(&client).copied().flatten());
        if let Some(way) = way.filter(|way| *way != host) {
            behind.entry(way).or_default().push(host);
        }
    }
    let mut leads = leads.to_vec();
    jumps(&behind, &mut leads);
    for (host, others) in &behind {
        let mut names: Vec<&str> = others.iter().map(|other| plans[*other].0.host.as_str()).collect();
        names.sort_unstable();
        let warning =
            first_and_more(&names).map(|names| jump_warning(&names, "they were asked from its address"));
        let plan = &mut plans[*host].0;
        // The inventory says the same, and maybe of more hosts.
        if plan.warnings.iter().all(|known| known.code != "jump-host") {
            plan.warnings.extend(warning);
            plan.warnings.sort();
        }
        plan.leads = plan.leads.max(leads[*host]);
    }
}

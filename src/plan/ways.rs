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

/// Hosts that were seen, each with its place among all.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<usize, Sight>);

#[derive(Debug)]
struct Sight {
    host: String,
    /// What the inventory says of it.
    leads: usize,
    ends: Ends,
}

impl Seen {
    /// One more was seen. `leads` is what the inventory says of it.
    pub fn add(&mut self, place: usize, host: &str, leads: usize, ends: Ends) {
        self.0.insert(place, Sight { host: host.to_owned(), leads, ends });
    }

    /// Marks the plans of hosts from which others were reached, and warns of them. Each plan comes with its host's place.
    pub fn mark<'a>(&self, plans: impl Iterator<Item = (usize, &'a mut HostPlan)>) {
        let behind = self.behind();
        let places: Vec<usize> = self.0.keys().copied().collect();
        let mut leads: Vec<usize> = self.0.values().map(|sight| sight.leads).collect();
        jumps(&behind, &mut leads);
        for (place, plan) in plans {
            let Ok(host) = places.binary_search(&place) else { continue };
            let Some(others) = behind.get(&host) else { continue };
            let mut names: Vec<&str> = others
                .iter()
                .filter_map(|other| Some(self.0.get(places.get(*other)?)?.host.as_str()))
                .collect();
            names.sort_unstable();
            let warning = first_and_more(&names)
                .map(|names| jump_warning(&names, "their probes came from its address"));
            // The inventory says the same, and maybe of more hosts.
            if plan.warnings.iter().all(|known| known.code != "jump-host") {
                plan.warnings.extend(warning);
                plan.warnings.sort();
            }
            plan.leads = plan.leads.max(leads[host]);
        }
    }

    /// Who was reached through each, all by their turn among those that were seen.
    fn behind(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut at: BTreeMap<IpAddr, Option<usize>> = BTreeMap::new();
        for (host, sight) in self.0.values().enumerate() {
            for address in &sight.ends.own {
                // What many have (libvirt's 192.168.122.1, a VIP) tells of none of them.
                at.entry(*address)
                    .and_modify(|one| *one = one.filter(|one| *one == host))
                    .or_insert(Some(host));
            }
        }
        let mut behind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (host, sight) in self.0.values().enumerate() {
            let way = sight.ends.client.and_then(|client| at.get(&client).copied().flatten());
            if let Some(way) = way.filter(|way| *way != host) {
                behind.entry(way).or_default().push(host);
            }
        }
        behind
    }
}

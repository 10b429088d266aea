//! Jump hosts by the inventory: the values of `jump`.

use super::depth::{JumpRole, deepen, summary};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the inventory says that one host is reached.
#[derive(Clone, Copy, Debug)]
pub struct DeclaredRoute<'a> {
    /// Its name in the inventory.
    pub host: &'a str,
    /// Its address.
    pub address: &'a str,
    /// Value of `jump`, as ssh takes it: `user@host:port`, separated by commas.
    pub jump: Option<&'a str>,
}

/// A jump host that the inventory names. It need not be a host of the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JumpHost {
    /// Its address, or its name where the inventory has no address of it.
    pub address: String,
    /// Summary of the hosts behind it.
    pub behind: String,
}

/// The jump hosts of an inventory.
#[derive(Clone, Debug, Default)]
pub struct DeclaredJumpHosts {
    /// All, also those that are not hosts of the inventory.
    pub all: Arc<[JumpHost]>,
    /// Those that are hosts of the inventory, by their position in the routes.
    pub roles: BTreeMap<usize, JumpRole>,
}

/// Finds the jump hosts of these hosts.
pub fn declared(routes: &[DeclaredRoute<'_>]) -> DeclaredJumpHosts {
    let mut reached: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, route) in routes.iter().enumerate() {
        for hop in route.jump.iter().flat_map(|jump| jump.split(',')) {
            reached.entry(hop_name(hop)).or_default().push(at);
        }
    }
    let summary_of = |hosts: &[usize]| summary(hosts.iter().map(|at| routes[*at].host).collect());
    let addresses: BTreeMap<&str, &str> = routes.iter().map(|route| (route.host, route.address)).collect();
    let all = reached
        .iter()
        .map(|(hop, hosts)| JumpHost {
            address: (*addresses.get(hop).unwrap_or(hop)).to_owned(),
            behind: summary_of(hosts).unwrap_or_default(),
        })
        .collect();
    let mut behind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, route) in routes.iter().enumerate() {
        let through = |name: &str| reached.get(name).into_iter().flatten().copied();
        let hosts: Vec<usize> =
            through(route.host).chain(through(route.address)).filter(|other| *other != at).collect();
        if !hosts.is_empty() {
            behind.insert(at, hosts);
        }
    }
    let mut depths = vec![0; routes.len()];
    deepen(&behind, &mut depths);
    let role = |(at, hosts): (&usize, &Vec<usize>)| {
        Some((*at, JumpRole::new(depths[*at], &summary_of(hosts)?, "`jump`")))
    };
    DeclaredJumpHosts { all, roles: behind.iter().filter_map(role).collect() }
}

/// The host of `user@host:port`, as ProxyJump takes it.
fn hop_name(hop: &str) -> &str {
    let hop = hop.trim().trim_start_matches("ssh://");
    let hop = hop.rsplit_once('@').map_or(hop, |(_, host)| host);
    if let Some(rest) = hop.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match hop.split_once(':') {
        // More than one colon is an IPv6 address.
        Some((host, port)) if !port.contains(':') => host,
        _ => hop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route<'a>(host: &'a str, jump: Option<&'a str>) -> DeclaredRoute<'a> {
        DeclaredRoute { host, address: host, jump }
    }

    #[test]
    fn depth_is_the_longest_chain_behind_a_host() {
        let routes =
            [route("a", None), route("b", Some("root@a:22")), route("c", Some("a,b")), route("d", Some("a"))];
        let found = declared(&routes);
        let depths: Vec<(usize, usize)> = found.roles.iter().map(|(at, role)| (*at, role.depth)).collect();
        assert_eq!(depths, [(0, 2), (1, 1)]);
        assert!(found.roles[&0].warning.message.finding.contains("jump host of b and 2 more (`jump`)"));
    }

    #[test]
    fn circular_jumps_end() {
        let found = declared(&[route("a", Some("b")), route("b", Some("a"))]);
        assert_eq!(found.roles.len(), 2);
    }

    #[test]
    fn jump_hosts_outside_the_inventory_have_no_role() {
        let found = declared(&[route("a", Some("ops@[2001:db8::1]:2222"))]);
        assert_eq!(found.all[..], [JumpHost { address: "2001:db8::1".into(), behind: "a".into() }]);
        assert!(found.roles.is_empty());
    }
}

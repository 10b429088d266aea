//! The host around its tables, as the packet walk needs it.

use crate::netfilter::{Bystander, Effect, Hook, Surroundings};
use crate::observe::{NativeChain, Observed, Others, Route};
use crate::resource::iptables::Family;
use ipnet::IpNet;

/// What was observed beside the tables of one family.
pub(super) fn surroundings(observed: &Observed, family: Family) -> Surroundings {
    let ours = |net: &IpNet| matches!(net, IpNet::V4(_)) == (family == Family::V4);
    let mut addresses = Vec::new();
    for link in observed.links.by_name.values() {
        for address in &link.addresses {
            let text = format!("{}/{}", address.local, address.prefix);
            addresses.extend(text.parse().ok().filter(&ours).map(|net: IpNet| (link.name.clone(), net)));
        }
    }
    let mut routes: Vec<(IpNet, String)> =
        addresses.iter().map(|(device, net)| (net.trunc(), device.clone())).collect();
    for route in &observed.links.routes {
        match network(route, family) {
            // Where several tables or several ways decide, no device is known.
            Some(_) if !is_plain(route) => {
                routes.clear();
                break;
            }
            Some(net) => routes.extend(route.hops.first().map(|hop| (net, hop.dev.clone()))),
            None => {}
        }
    }
    Surroundings { addresses, routes, bystanders: bystanders(&observed.others, family) }
}

fn network(route: &Route, family: Family) -> Option<IpNet> {
    let text = match (route.dst.as_str(), family) {
        ("default", Family::V4) => "0.0.0.0/0",
        (dst, _) => dst,
    };
    let net: IpNet = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    (matches!(net, IpNet::V4(_)) == (family == Family::V4)).then_some(net)
}

fn is_plain(route: &Route) -> bool {
    route.hops.len() == 1 && !route.words.iter().any(|word| word == "table")
}

/// Everything else there that packets of a family pass.
fn bystanders(others: &Others, family: Family) -> Vec<Bystander> {
    let digit = if family == Family::V4 { '4' } else { '6' };
    let mut found: Vec<Bystander> = others.chains.iter().filter_map(|chain| native(chain, family)).collect();
    for backend in others.backend_rules.keys() {
        let (name, hooks) = match backend.as_str() {
            "ebtables" => ("ebtables".to_owned(), vec![Hook::Bridge]),
            "arptables" if family == Family::V4 => ("arptables".to_owned(), vec![Hook::Bridge]),
            other => match other.strip_suffix(digit) {
                Some(other) => (format!("{family}-{other}"), vec![Hook::Prerouting, Hook::Output]),
                None => continue,
            },
        };
        let effect = if hooks == [Hook::Bridge] { Effect::MayDrop } else { Effect::MayRewrite };
        found.push(Bystander { name, hooks, effect });
    }
    found
}

/// A native chain, where it meets packets of the family and can do something to them.
fn native(chain: &NativeChain, family: Family) -> Option<Bystander> {
    let kind = chain.table.split(' ').next().unwrap_or_default();
    let bridge = kind == "bridge";
    let meets = match kind {
        "inet" | "netdev" | "bridge" => true,
        "ip" => family == Family::V4,
        "ip6" => family == Family::V6,
        _ => false,
    };
    let hook = match chain.hook.as_str() {
        "input" if bridge => return None,
        _ if bridge => Hook::Bridge,
        "ingress" | "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" | "egress" => Hook::Postrouting,
        _ => return None,
    };
    let effect = if chain.kind == "nat" {
        chain.rewrites.then_some(Effect::MayRewrite)
    } else {
        chain.drops.then_some(Effect::MayDrop)
    };
    let name = format!("nft table {}", chain.table);
    effect.filter(|_| meets).map(|effect| Bystander { name, hooks: vec![hook], effect })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, kind: &str, hook: &str, drops: bool) -> NativeChain {
        let (table, kind, hook) = (table.to_owned(), kind.to_owned(), hook.to_owned());
        NativeChain { table, kind, hook, drops, rewrites: drops }
    }

    #[test]
    fn who_else_decides() {
        let met = |chain: NativeChain, family| {
            let others = Others { chains: vec![chain], ..Others::default() };
            bystanders(&others, family).pop().map(|one| (one.hooks[0], one.effect))
        };
        let drop = Some((Hook::Input, Effect::MayDrop));
        assert_eq!(met(chain("inet other", "filter", "input", true), Family::V4), drop);
        assert_eq!(met(chain("inet other", "filter", "input", true), Family::V6), drop);
        assert_eq!(met(chain("inet other", "filter", "input", false), Family::V4), None);
        assert_eq!(met(chain("ip6 other", "filter", "input", true), Family::V4), None);
        assert_eq!(
            met(chain("ip other", "nat", "prerouting", true), Family::V4),
            Some((Hook::Prerouting, Effect::MayRewrite))
        );
        assert_eq!(
            met(chain("bridge filter", "filter", "forward", true), Family::V6),
            Some((Hook::Bridge, Effect::MayDrop))
        );
    }

    #[test]
    fn the_other_backend_and_ebtables() {
        let counts = [("legacy4", 3), ("nft6", 1), ("ebtables", 2)];
        let backend_rules = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let others = Others { backend_rules, ..Others::default() };
        let names = |family| bystanders(&others, family).into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(Family::V4), ["ebtables", "iptables-legacy"]);
        assert_eq!(names(Family::V6), ["ebtables", "ip6tables-nft"]);
    }
}

//! What else packets of a host pass beside the tables that iptables shows.

use crate::host_state::OtherFilters;
use crate::netfilter::{NetfilterHook, OtherTable, TableEffect};
use crate::resource::iptables::IpFamily;

/// Everything else there that packets of a family pass and that can stop or rewrite them.
pub fn other_tables(others: &OtherFilters, family: IpFamily) -> Vec<OtherTable> {
    let digit = if family == IpFamily::V4 { '4' } else { '6' };
    let mut found: Vec<OtherTable> =
        others.chains.iter().flat_map(|chain| native(chain, others, family)).collect();
    for backend in others.backend_rules.keys() {
        let (name, hooks) = match backend.as_str() {
            "ebtables" => ("ebtables".to_owned(), vec![NetfilterHook::Bridge, NetfilterHook::BridgeHost]),
            "arptables" if family == IpFamily::V4 => ("arptables".to_owned(), vec![NetfilterHook::Bridge]),
            other => match other.strip_suffix(digit) {
                Some(other) => {
                    (format!("{family}-{other}"), vec![NetfilterHook::Prerouting, NetfilterHook::Output])
                }
                None => continue,
            },
        };
        let effect = if hooks.contains(&NetfilterHook::Bridge) {
            TableEffect::MayDrop
        } else {
            TableEffect::MayRewrite
        };
        found.push(OtherTable { name, hooks, effect });
    }
    found
}

/// Native nft tables that drop by default what a hook for packets to, through or from the host brings them, of a
/// family.
pub(super) fn default_drop_chains(
    others: &OtherFilters,
    family: IpFamily,
) -> impl Iterator<Item = (String, &'static str)> {
    let walls = others.chains.iter().filter(|chain| chain.contains("policy drop"));
    let all = walls.flat_map(move |chain| native(chain, others, family));
    all.filter(|one| one.effect == TableEffect::MayDrop).filter_map(|one| {
        let hook = match one.hooks.as_slice() {
            [NetfilterHook::Input] => "input",
            [NetfilterHook::Forward] => "forward",
            [NetfilterHook::Output] => "output",
            _ => return None,
        };
        Some((one.name, hook))
    })
}

/// `inet other type filter hook forward priority 10; policy drop;`, where it meets packets of the family
/// and it or its table does something to them: once for each thing that it may do.
fn native(chain: &str, others: &OtherFilters, family: IpFamily) -> Vec<OtherTable> {
    let Some(BaseChain { table, nat, drops, hooks }) = base_chain(chain, family) else { return Vec::new() };
    let acts = |act: &str| others.acts.contains(&format!("{table} {act}"));
    let effects = [
        (TableEffect::MayRewrite, if nat { acts("rewrite") } else { acts("change") }),
        (TableEffect::MayDrop, !nat && (drops || acts("drop"))),
        (TableEffect::MayMark, acts("mark")),
        (TableEffect::MayUntrack, !nat && acts("untrack")),
    ];
    let name = format!("nft table {table}");
    let there = effects.into_iter().filter(|(_, there)| *there);
    there.map(|(effect, _)| OtherTable { name: name.clone(), hooks: hooks.clone(), effect }).collect()
}

/// A native base chain.
struct BaseChain {
    /// `FAMILY NAME`.
    table: String,
    /// Its type is `nat`.
    nat: bool,
    /// Its policy is `drop`.
    drops: bool,
    hooks: Vec<NetfilterHook>,
}

/// Reads a base chain that packets of the family meet.
fn base_chain(chain: &str, family: IpFamily) -> Option<BaseChain> {
    let words: Vec<&str> = chain.split([' ', '\t', ';']).filter(|word| !word.is_empty()).collect();
    let after = |name: &str| {
        let at = words.iter().skip(2).position(|word| *word == name)?;
        words.get(at + 3).copied()
    };
    let (kind, table) = (*words.first()?, words.get(..2)?.join(" "));
    let bridge = kind == "bridge";
    let meets = match kind {
        "inet" | "netdev" | "bridge" => true,
        "ip" => family == IpFamily::V4,
        "ip6" => family == IpFamily::V6,
        _ => false,
    };
    let hooks = match after("hook")? {
        "input" | "output" if bridge => vec![NetfilterHook::BridgeHost],
        "forward" if bridge => vec![NetfilterHook::Bridge],
        _ if bridge => vec![NetfilterHook::Bridge, NetfilterHook::BridgeHost],
        // At a device, which may be the port of a bridge.
        "ingress" => vec![NetfilterHook::Prerouting, NetfilterHook::Bridge],
        "egress" => vec![NetfilterHook::Postrouting, NetfilterHook::Bridge],
        "prerouting" => vec![NetfilterHook::Prerouting],
        "input" => vec![NetfilterHook::Input],
        "forward" => vec![NetfilterHook::Forward],
        "output" => vec![NetfilterHook::Output],
        "postrouting" => vec![NetfilterHook::Postrouting],
        _ => return None,
    };
    let (nat, drops) = (after("type") == Some("nat"), after("policy") == Some("drop"));
    meets.then_some(BaseChain { table, nat, drops, hooks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_else_decides() {
        let met = |chain: &str, acts: &[&str], family| {
            let acts = acts.iter().map(|act| (*act).to_owned()).collect();
            let others = OtherFilters { chains: vec![chain.to_owned()], acts, ..OtherFilters::default() };
            other_tables(&others, family).pop().map(|one| (one.hooks[0], one.effect))
        };
        let drop = Some((NetfilterHook::Input, TableEffect::MayDrop));
        let input = "inet other \t\ttype filter hook input priority filter; policy accept;";
        assert_eq!(met(input, &["inet other drop"], IpFamily::V4), drop);
        assert_eq!(met(input, &["inet other drop"], IpFamily::V6), drop);
        assert_eq!(met(input, &["inet another drop"], IpFamily::V4), None);
        assert_eq!(met(&input.replace("accept", "drop"), &[], IpFamily::V4), drop);
        assert_eq!(met(&input.replace("inet", "ip6"), &["ip6 other drop"], IpFamily::V4), None);
        assert_eq!(
            met(
                "ip lib type nat hook prerouting priority -100; policy accept;",
                &["ip lib rewrite"],
                IpFamily::V4
            ),
            Some((NetfilterHook::Prerouting, TableEffect::MayRewrite))
        );
        assert_eq!(
            met("bridge f type filter hook forward priority 0; policy drop;", &[], IpFamily::V6),
            Some((NetfilterHook::Bridge, TableEffect::MayDrop))
        );
        for (act, effect) in [
            ("change", TableEffect::MayRewrite),
            ("mark", TableEffect::MayMark),
            ("untrack", TableEffect::MayUntrack),
        ] {
            let acts = [format!("inet other {act}")];
            assert_eq!(met(input, &[&acts[0]], IpFamily::V4), Some((NetfilterHook::Input, effect)));
        }
        let at_port = "netdev f type filter hook ingress device \"vnet0\" priority 0; policy drop;";
        let others = OtherFilters { chains: vec![at_port.to_owned()], ..OtherFilters::default() };
        assert_eq!(
            other_tables(&others, IpFamily::V4)[0].hooks,
            [NetfilterHook::Prerouting, NetfilterHook::Bridge]
        );
    }

    #[test]
    fn the_other_backend_and_ebtables() {
        let counts = [("legacy4", 3), ("nft6", 1), ("ebtables", 2)];
        let backend_rules = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let others = OtherFilters { backend_rules, ..OtherFilters::default() };
        let names =
            |family| other_tables(&others, family).into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(IpFamily::V4), ["ebtables", "iptables-legacy"]);
        assert_eq!(names(IpFamily::V6), ["ebtables", "ip6tables-nft"]);
    }
}

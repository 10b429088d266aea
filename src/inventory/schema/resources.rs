//! The shapes of what groups, hosts and modules state alike.

use super::{ADDRESS, LINK, LINK_ADDRESS, MAC, SchemaBuilder, WORD, by_name, doc, object, reference};
use crate::inventory::{resources, rules, sets};
use crate::resource::bridge::PORT_ATTRIBUTES;
use crate::resource::ipset::{MAX_MEMBERS, TYPES};
use crate::resource::iptables::{ADMINISTRATORS, TABLES};
use serde_json::{Map, Value, json};

impl SchemaBuilder {
    /// What stands under one key of a resource.
    pub(super) fn resource(self, key: &str) -> Option<Value> {
        Some(match key {
            "sysctl" => doc(
                by_name(
                    r"^(?!.*\.conf$)(?!.*\.\.)[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,199}$",
                    reference("sysctl-file"),
                ),
                "Files of /etc/sysctl.d by name without `.conf`; kvmfw manages the whole file.",
            ),
            "iptables" => doc(
                reference("tables"),
                "Rules for IPv4: tables and chains, or a block of iptables-save text.",
            ),
            "ip6tables" => doc(
                reference("tables"),
                "Rules for IPv6: tables and chains, or a block of iptables-save text.",
            ),
            "ipset" => doc(
                by_name(&sets::name_pattern(), reference("set")),
                "Sets by name; rules use them with `-m set --match-set NAME src`.",
            ),
            "bridges" => {
                doc(by_name(LINK, reference("bridge")), "Bridges by name; `$bridges` contains these names.")
            }
            "checks" => {
                doc(self.list(reference("check")), "Checks that must pass before a change is confirmed.")
            }
            "expect" => self.expectations(),
            "unmanaged_chains" => doc(
                self.set(self.text(WORD)),
                "Unmanaged chains to which rules may jump, such as DOCKER-USER.",
            ),
            "extensions" => self.extensions(),
            _ => return None,
        })
    }

    /// `extensions`.
    pub(super) fn extensions(self) -> Value {
        doc(
            self.set(self.text(WORD)),
            "Matches and targets of the hosts that kvmfw does not know; their options are not checked.",
        )
    }

    pub(super) fn sysctl_file(self) -> Value {
        let text = json!({ "type": "string", "pattern": r"^[\t -~]{1,1000}$" });
        let value = self.value(json!({ "anyOf": [{ "type": "integer" }, text] }));
        by_name(r"^[A-Za-z0-9_@+-]+([./][A-Za-z0-9_@+-]+)+$", value)
    }

    /// Tables by name, or one text.
    pub(super) fn tables(self) -> Value {
        let table = |chains: &[&str], administrators: bool| {
            let mut builtin: Map<String, Value> =
                chains.iter().map(|chain| ((*chain).to_owned(), reference("builtin-chain"))).collect();
            if administrators {
                for chain in ADMINISTRATORS {
                    builtin.insert(chain.to_owned(), reference("administrators-chain"));
                }
            }
            let others: Vec<&str> = TABLES
                .iter()
                .flat_map(|(_, chains)| chains.iter().copied())
                .filter(|chain| !chains.contains(chain))
                .collect();
            let name = format!("^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{}}}$", rules::MAX_CHAIN - 1);
            json!({
                "type": ["object", "null"],
                "properties": builtin,
                "propertyNames": { "pattern": name, "not": { "anyOf": [{ "enum": others }, { "pattern": "^KVMFW-" }] } },
                "additionalProperties": reference("own-chain"),
            })
        };
        let names = TABLES.map(|(name, _)| name);
        let tables = object(&names, "", |name| {
            TABLES.iter().find(|(table, _)| *table == name).map(|(_, chains)| table(chains, name == "filter"))
        });
        json!({ "anyOf": [tables, { "type": "string", "minLength": 1 }] })
    }

    /// A chain without some keys: only a built-in one has a policy, and one of the administrator too has a hook.
    pub(super) fn chain(self, without: &[&str]) -> Value {
        let keys: Vec<&str> = rules::KEYS.into_iter().filter(|key| !without.contains(key)).collect();
        object(&keys, "", |key| {
            let text = |when: &str| {
                json!({
                    "type": ["string", "null"],
                    "description": format!("Rules in a block `|`, one per line, without `-A CHAIN`; {when}."),
                })
            };
            Some(match key {
                "first" => text("before `rules` of all sources"),
                "rules" => text("between `first` and `last`"),
                "last" => text("after `rules` of all sources"),
                "policy" => self.word(&["ACCEPT", "DROP"]),
                "jump" => {
                    doc(self.word(&["first", "last"]), "Keep the jump rule first or last in the chain.")
                }
                _ => return None,
            })
        })
    }

    pub(super) fn bridge(self) -> Value {
        object(&resources::bridge_keys(), "", |key| {
            let text = |pattern: &str| self.text(pattern);
            Some(match key {
                "manage" => doc(
                    self.boolean(),
                    "`false`: another program creates the bridge; only `$bridges` contains it.",
                ),
                "take_addresses" => {
                    doc(self.boolean(), "Move addresses and routes of the ports to the bridge.")
                }
                "ports" => doc(self.ports(), "Ports (minimum): names, or a map from names to attributes."),
                "addresses" => doc(
                    self.set(text(LINK_ADDRESS)),
                    "Addresses (minimum) with prefix length, or `ADDRESS peer PEER/LENGTH`.",
                ),
                "gateways" => doc(self.list(text(ADDRESS)), "Default gateways, one per family."),
                "mac" => text(MAC),
                "vlans" => self.vlans(),
                _ => match resources::NUMBERS.iter().find(|(name, ..)| *name == key) {
                    Some((_, low, high)) => self.integer(*low, *high),
                    None if resources::FLAGS.contains(&key) => self.boolean(),
                    None => return None,
                },
            })
        })
    }

    fn ports(self) -> Value {
        let mut port = object(&resources::port_keys(), "", |key| {
            let known = PORT_ATTRIBUTES.iter().find(|known| known.key == key)?;
            let (low, high) = known.bounds;
            Some(if known.switch { self.boolean() } else { self.integer(low.into(), high.into()) })
        });
        port["type"] = json!(["object", "null"]);
        json!({ "anyOf": [self.set(self.text(LINK)), by_name(LINK, port)] })
    }

    pub(super) fn set_shape(self) -> Value {
        object(&sets::keys(), "", |key| {
            Some(match key {
                "type" => doc(self.word(&TYPES.map(|(name, _)| name)), "Type of the set and its members."),
                "family" => doc(self.word(&["inet", "inet6"]), "Address family; default `inet`."),
                "entries" => {
                    let entry = json!({ "anyOf": [self.line(), { "type": "integer" }] });
                    let list = json!({ "type": ["array", "null"], "items": entry, "maxItems": MAX_MEMBERS });
                    doc(
                        self.value(json!({ "anyOf": [list, { "const": "unmanaged" }] })),
                        "All members; `unmanaged`: other programs add and remove them.",
                    )
                }
                "range" => doc(self.value(self.line()), "Range of a bitmap: `192.0.2.0/24` or `0-1023`."),
                _ => match sets::NUMBERS.iter().find(|(name, ..)| *name == key) {
                    Some((_, low, high)) => self.integer(*low, *high),
                    None if sets::FLAGS.contains(&key) => self.boolean(),
                    None => return None,
                },
            })
        })
    }

    fn vlans(self) -> Value {
        let range = self.text(r"^ *[0-9]{1,4} *- *[0-9]{1,4} *$");
        let vid = json!({ "anyOf": [self.integer(1, resources::LAST_VLAN.into()), range] });
        let vid = doc(vid, "VLAN, or a range: `10-19`.");
        let mut vlan = object(&resources::VLAN_KEYS, "", |key| {
            Some(match key {
                "vid" => vid.clone(),
                "pvid" => doc(self.boolean(), "Incoming untagged frames belong to this VLAN."),
                "untagged" => doc(self.boolean(), "Outgoing frames have no tag."),
                _ => return None,
            })
        });
        vlan["type"] = "object".into();
        doc(by_name(LINK, self.list(json!({ "anyOf": [vid, vlan] }))), "VLANs per port.")
    }
}

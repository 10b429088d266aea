//! The shape of tests of modules.

use super::{ADDRESS, LINK, SchemaBuilder, doc, object, params_by_module, reference};
use crate::inventory::module_test;
use serde_json::{Value, json};

impl SchemaBuilder {
    /// Tests by what they say.
    pub(super) fn module_tests(self) -> Value {
        json!({ "type": ["object", "null"], "additionalProperties": self.module_test() })
    }

    fn module_test(self) -> Value {
        let mut test = object(&module_test::KEYS, "", |key| {
            Some(match key {
                "given" => self.given(),
                "observed" => self.observed(),
                "iptables" | "ip6tables" => doc(reference("tables"), "Expected chains, complete."),
                "sysctl" => self.resource("sysctl")?,
                "packets" => doc(self.list(self.packet()), "Packets with their expected verdicts."),
                "error" => doc(self.line(), "Part of the error that `kvmfw check` reports."),
                _ => return None,
            })
        });
        let expects = module_test::KEYS.iter().filter(|key| !["given", "observed"].contains(key));
        let any: Vec<Value> = expects.map(|key| json!({ "required": [key] })).collect();
        test["type"] = "object".into();
        test["anyOf"] = any.into();
        test
    }

    fn given(self) -> Value {
        object(&module_test::given_keys(), "Entry of the host; default for `modules`: this module.", |key| {
            Some(match key {
                "modules" => reference("names"),
                "params" => params_by_module(),
                _ => return self.resource(key),
            })
        })
    }

    fn observed(self) -> Value {
        object(&module_test::OBSERVED, "Present state of the host.", |key| {
            Some(match key {
                "iptables" | "ip6tables" => {
                    json!({ "type": "string", "description": "Output of iptables-save." })
                }
                "sysctl" => reference("sysctl-file"),
                _ => return None,
            })
        })
    }

    fn packet(self) -> Value {
        let port = || self.integer(0, 65535);
        let mut packet = object(&module_test::PACKET, "", |key| {
            Some(match key {
                "chain" => {
                    doc(self.word(&module_test::CHAINS), "Chain of the filter table that the packet meets.")
                }
                "bridge" => doc(self.text(LINK), "Bridge that forwards the packet as a frame."),
                "ip" => doc(json!({ "enum": [4, 6] }), "IP version; default: both."),
                "in" => doc(self.line(), "Incoming device, or port of the bridge; default `eth0`."),
                "out" => doc(
                    self.line(),
                    "Outgoing device, or port of the bridge; default `eth0`, if forwarded `eth1`.",
                ),
                "src" | "dst" => self.text(ADDRESS),
                "tcp" | "udp" => doc(port(), "Destination port."),
                "icmp" => {
                    let text = json!({ "type": "string", "pattern": "^(echo|[0-9]{1,3}/[0-9]{1,3})$" });
                    doc(
                        json!({ "anyOf": [self.integer(0, 255), text] }),
                        "ICMP type, `TYPE/CODE`, or `echo`.",
                    )
                }
                "state" => doc(self.word(&module_test::STATES), "Conntrack state; default `NEW`."),
                "verdict" => doc(self.word(&module_test::VERDICTS), "Expected verdict."),
                "by" => doc(self.line(), "Part of the rule or policy that decides."),
                _ => return None,
            })
        });
        packet["type"] = "object".into();
        packet["required"] = json!(["verdict"]);
        packet["oneOf"] =
            json!([{ "required": ["bridge"] }, { "required": ["chain"], "not": { "required": ["bridge"] } }]);
        packet
    }
}

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
                "iptables" | "ip6tables" => doc(reference("tables"), "Chains that come of it, each whole."),
                "sysctl" => self.resource("sysctl")?,
                "packets" => doc(self.list(self.packet()), "Packets and what becomes of them."),
                "error" => doc(self.line(), "A part of what `kvmfw check` says against what is given."),
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
        object(&module_test::given_keys(), "What the host's entry says; without modules, this one.", |key| {
            Some(match key {
                "modules" => reference("names"),
                "params" => params_by_module(),
                _ => return self.resource(key),
            })
        })
    }

    fn observed(self) -> Value {
        object(&module_test::OBSERVED, "What is there already.", |key| {
            Some(match key {
                "iptables" | "ip6tables" => {
                    json!({ "type": "string", "description": "What iptables-save prints." })
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
                "chain" => doc(self.word(&module_test::CHAINS), "The chain of the filter table it meets."),
                "bridge" => doc(self.text(LINK), "The bridge that forwards it as a frame."),
                "ip" => doc(json!({ "enum": [4, 6] }), "The version of IP; both unless stated."),
                "in" => doc(self.line(), "The device, or port of the bridge, it comes in by [eth0]."),
                "out" => doc(
                    self.line(),
                    "The device, or port of the bridge, it leaves by [eth0, forwarded eth1].",
                ),
                "src" | "dst" => self.text(ADDRESS),
                "tcp" | "udp" => doc(port(), "The port it goes to."),
                "icmp" => {
                    let text = json!({ "type": "string", "pattern": "^(echo|[0-9]{1,3}/[0-9]{1,3})$" });
                    doc(json!({ "anyOf": [self.integer(0, 255), text] }), "Type, `TYPE/CODE`, or `echo`.")
                }
                "state" => doc(self.word(&module_test::STATES), "What conntrack says; NEW unless stated."),
                "verdict" => doc(self.word(&module_test::VERDICTS), "What becomes of it."),
                "by" => doc(self.line(), "A part of the rule or policy that decides."),
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

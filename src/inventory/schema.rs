//! JSON Schemas (draft-07) of what people write, for editors: built from the same lists of keys that
//! the readers refuse unknown keys by, so that neither knows a key that the other does not.
//!
//! A schema cannot see how YAML is written (rules outside of a block), what a rule means, or what
//! another file says; all else it takes and refuses as the readers do.

mod module_test;
mod resources;

use super::entry::{self, EntryOwner};
use super::{checks, expectations, module, params, project, ssh};
use crate::expectation::ExpectedVerdict;
use crate::problem::{LintCode, LintLevel};
use serde_json::{Map, Value, json};

/// A schema that people or editors ask for by name.
pub fn schema(name: &str) -> Option<Value> {
    let (title, root, shapes) = match name {
        "inventory" => {
            let shapes = SchemaBuilder { in_module: false };
            ("kvmfw inventory", shapes.inventory(), shapes)
        }
        "module" => {
            let shapes = SchemaBuilder { in_module: true };
            ("kvmfw module", shapes.module(), shapes)
        }
        "module-test" => {
            let shapes = SchemaBuilder { in_module: false };
            ("kvmfw tests of a module", shapes.module_tests(), shapes)
        }
        _ => return None,
    };
    let mut document = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "title": title });
    if let (Value::Object(document), Value::Object(root)) = (&mut document, root) {
        document.extend(root);
        document.insert("definitions".to_owned(), Value::Object(shapes.definitions()));
    }
    Some(document)
}

/// Builds schemas; in a module, `$name` may stand for any value.
#[derive(Clone, Copy)]
struct SchemaBuilder {
    in_module: bool,
}

/// A name that is no option and stays in one line.
const WORD: &str = "^[A-Za-z0-9_.][A-Za-z0-9_.-]*$";
/// `$name` as a whole value.
const REFERENCE: &str = r"^\$[A-Za-z_][A-Za-z0-9_]*$";
/// A link's name, as the kernel takes it.
const LINK: &str = "^(?!\\.{1,2}$)[A-Za-z0-9._@][A-Za-z0-9._@-]{0,14}$";
/// An address of either family, roughly: what is left the reader tells.
const ADDRESS: &str = "^([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$";
/// The same with a prefix length.
const NETWORK: &str = "^([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/[0-9]{1,3}$";
/// An address of a link: with a prefix length, or with a peer.
const LINK_ADDRESS: &str = "^([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(/[0-9]{1,3}| peer ([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(/[0-9]{1,3})?)$";
const MAC: &str = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$";
const PORT: &str = "^[0-9]*(:[0-9]*)?$";

/// A map of these keys; a key for which there is no shape takes anything, and a test finds it.
fn object(keys: &[&str], doc: &str, shape: impl Fn(&str) -> Option<Value>) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), shape(key).unwrap_or(Value::Bool(true)))).collect();
    let mut object = json!({
        "type": ["object", "null"], "properties": properties, "additionalProperties": false,
    });
    if !doc.is_empty() {
        object["description"] = doc.into();
    }
    object
}

/// A map whose keys are names.
fn by_name(pattern: &str, value: Value) -> Value {
    json!({
        "type": ["object", "null"],
        "propertyNames": { "pattern": pattern },
        "additionalProperties": value,
    })
}

/// The same shape with a text for people.
fn doc(mut shape: Value, text: &str) -> Value {
    // Beside a reference, nothing else counts.
    if shape.get("$ref").is_some() {
        shape = json!({ "allOf": [shape] });
    }
    shape["description"] = text.into();
    shape
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

impl SchemaBuilder {
    /// A value that in a module may be a `$param`.
    fn value(self, shape: Value) -> Value {
        if self.in_module { json!({ "anyOf": [shape, reference("param-reference")] }) } else { shape }
    }

    fn boolean(self) -> Value {
        self.value(json!({ "type": "boolean" }))
    }

    fn integer(self, low: i128, high: i128) -> Value {
        // Bounds that JSON numbers cannot tell exactly are none.
        let bound = |number: i128| i64::try_from(number).ok();
        self.value(json!({ "type": "integer", "minimum": bound(low), "maximum": bound(high) }))
    }

    /// Text of one line. Outside of modules there are no params.
    fn line(self) -> Value {
        let none = if self.in_module { "" } else { r"(?!\$[A-Za-z_][A-Za-z0-9_]*$)" };
        json!({ "type": "string", "pattern": format!(r"^{none}[^\u0000-\u001f]+$") })
    }

    fn text(self, pattern: &str) -> Value {
        self.value(json!({ "type": "string", "pattern": pattern }))
    }

    fn word(self, words: &[&str]) -> Value {
        self.value(json!({ "enum": words }))
    }

    /// A list; nothing is an empty one.
    fn list(self, item: Value) -> Value {
        self.value(json!({ "type": ["array", "null"], "items": item, "maxItems": super::reader::MAX_ITEMS }))
    }

    /// A list without duplicates.
    fn set(self, item: Value) -> Value {
        self.value(json!({
            "type": ["array", "null"], "items": item, "maxItems": super::reader::MAX_ITEMS, "uniqueItems": true,
        }))
    }

    fn duration(self, text: &str) -> Value {
        doc(self.text("^ *[0-9]+ *[A-Za-z]"), text)
    }

    fn inventory(self) -> Value {
        object(&project::KEYS, "", |key| {
            Some(match key {
                "hosts" => {
                    let mut hosts = by_name(r"^[A-Za-z0-9\[][A-Za-z0-9._,\[\]-]*$", reference("host"));
                    let range =
                        json!({ "allOf": [reference("host"), { "not": { "required": ["address"] } }] });
                    hosts["patternProperties"] = json!({ r"\[": range });
                    doc(hosts, "Hosts by name; `kvm[01-40]` is a range of forty hosts.")
                }
                "groups" => {
                    doc(by_name(WORD, reference("group")), "Groups by name; `all` contains every host.")
                }
                "lints" => lint_levels(),
                "extensions" => self.extensions(),
                "expect" => self.expectations(),
                _ => return None,
            })
        })
    }

    fn module(self) -> Value {
        object(&module::keys(), "", |key| {
            Some(match key {
                "description" => json!({ "type": "string", "description": "Purpose of the module." }),
                "params" => doc(
                    by_name("^(?!bridges$)[A-Za-z][A-Za-z0-9_]*$", param()),
                    "Params that hosts and groups can set.",
                ),
                _ => return self.resource(key),
            })
        })
    }

    fn entry(self, owner: EntryOwner) -> Value {
        object(&entry::keys(owner), "", |key| {
            Some(match key {
                "address" => doc(
                    json!({ "type": "string", "pattern": r"^[A-Za-z0-9:][A-Za-z0-9:._-]*$" }),
                    "Address for ssh; default: the name of the host.",
                ),
                "max_in_flight" => doc(
                    self.integer(1, i128::from(u16::MAX)),
                    "Maximum number of hosts of the group that change at the same time.",
                ),
                "groups" if owner == EntryOwner::Group => {
                    doc(reference("names"), "Parents of the group, in the order of their rules.")
                }
                "groups" => doc(reference("names"), "Groups of the host."),
                "modules" => doc(reference("names"), "Modules, in the order of their rules."),
                "ssh" => reference("ssh"),
                "params" => params_by_module(),
                "lints" => lint_levels(),
                _ => return self.resource(key),
            })
        })
    }

    fn definitions(self) -> Map<String, Value> {
        let mut all = Map::new();
        let mut add = |name: &str, shape: Value| all.insert(name.to_owned(), shape);
        if self.in_module {
            add("param-reference", json!({ "type": "string", "pattern": REFERENCE }));
        } else {
            add("host", self.entry(EntryOwner::Host));
            add("group", self.entry(EntryOwner::Group));
            add("names", self.set(json!({ "type": "string", "pattern": WORD })));
            add("ssh", self.ssh());
            add("ssh-option", json!({ "anyOf": [self.line(), { "type": ["integer", "boolean"] }] }));
        }
        add("sysctl-file", self.sysctl_file());
        add("tables", self.tables());
        add("builtin-chain", self.chain(&[]));
        add("administrators-chain", self.chain(&["policy"]));
        add("own-chain", self.chain(&["policy", "jump"]));
        add("set", self.set_shape());
        add("bridge", self.bridge());
        add("check", self.check());
        add("expectation", self.expectation());
        all
    }

    fn ssh(self) -> Value {
        let path = || json!({ "type": "string", "pattern": r#"^(~/|[^-~%$"\n])[^%$"\n]*$"# });
        object(&ssh::KEYS, "Connection settings.", |key| {
            Some(match key {
                "port" => self.integer(1, 65535),
                "user" => self.text("^[A-Za-z0-9_.@+][A-Za-z0-9_.@+-]*$"),
                "become" => doc(json!({ "enum": ["sudo", "no"] }), "Method to become root."),
                "identity_file" => doc(path(), "Relative to the folder of this file."),
                "known_hosts" => doc(path(), "Relative to the folder of this file."),
                "jump" => {
                    doc(self.text("^[A-Za-z0-9_.@:,+\\[\\]-]+$"), "Jump hosts, as in ProxyJump of ssh.")
                }
                "options" => self.ssh_options(),
                "connect_timeout" => self.duration("Duration, such as `10s`."),
                _ => return None,
            })
        })
    }

    /// ssh itself takes these names in any case.
    fn ssh_options(self) -> Value {
        let any_case = |name: &str| -> String {
            name.chars().map(|c| format!("[{}{}]", c.to_ascii_uppercase(), c.to_ascii_lowercase())).collect()
        };
        let properties: Map<String, Value> =
            ssh::OPTIONS.iter().map(|name| ((*name).to_owned(), reference("ssh-option"))).collect();
        let names: Vec<String> = ssh::OPTIONS.iter().map(|name| any_case(name)).collect();
        json!({
            "type": ["object", "null"],
            "description": "Options of ssh_config(5).",
            "properties": properties,
            "propertyNames": { "pattern": format!("^({})$", names.join("|")) },
            "additionalProperties": reference("ssh-option"),
        })
    }

    /// The packets of an expectation; see [`expectations`].
    fn expectation(self) -> Value {
        let mut packets = object(&expectations::KEYS, "", |key| {
            Some(match key {
                "from" => doc(
                    self.value(self.line()),
                    "`host`, `guest@BRIDGE`, `uplink@BRIDGE`, an address, a network, a device, or a guest by name or MAC.",
                ),
                "to" => doc(
                    self.value(self.line()),
                    "The same with port and protocol: `'192.0.2.53:53/udp'`; without both, every protocol.",
                ),
                "in" => doc(self.text(LINK), "Device on which routed packets arrive."),
                "bridge" => doc(self.text(LINK), "Bridge that the packets cross."),
                "established" => doc(self.boolean(), "The packets belong to open connections."),
                "rewritten-to" => doc(
                    self.value(self.line()),
                    "Destination that NAT has to give the packets: `ADDRESS` or `'ADDRESS:PORT'`.",
                ),
                _ => return None,
            })
        });
        packets["type"] = "object".into();
        packets["required"] = json!(["from", "to"]);
        let verdicts = ExpectedVerdict::ALL.map(ExpectedVerdict::as_str);
        let mut shape = object(&verdicts, "", |_| Some(packets.clone()));
        shape["type"] = "object".into();
        shape["minProperties"] = 1.into();
        shape["maxProperties"] = 1.into();
        shape
    }

    pub(super) fn expectations(self) -> Value {
        doc(
            self.list(reference("expectation")),
            "What packets are expected to do; a change that breaks it is refused.",
        )
    }

    fn check(self) -> Value {
        let mut check = object(&checks::KEYS, "", |key| {
            Some(match key {
                "ping" => doc(self.value(self.line()), "Address that must answer an echo request."),
                "tcp" => doc(
                    self.text(r"^(\[[^\]]+\]|[^:\s]+|[0-9A-Fa-f:.]+):[0-9]+$"),
                    "`'ADDRESS:PORT'` that must take a connection.",
                ),
                "command" => doc(self.value(self.line()), "Shell command that must succeed on the host."),
                "from" => doc(self.word(&["host", "controller"]), "Where the check runs; default `host`."),
                "timeout" => self.duration("Duration, such as `5s`."),
                "required" => doc(self.boolean(), "The check must pass even if it failed before the change."),
                _ => return None,
            })
        });
        check["type"] = "object".into();
        check["oneOf"] = json!([
            { "required": ["ping"] },
            { "required": ["tcp"] },
            { "required": ["command"], "properties": { "from": { "not": { "const": "controller" } } } },
        ]);
        check
    }
}

/// One or many values of a param.
fn params_by_module() -> Value {
    let one = json!({ "type": ["string", "integer", "boolean"], "pattern": r"^[^\u0000-\u001f]+$" });
    let value = json!({ "anyOf": [one, { "type": "array", "items": one }] });
    let mut shape = by_name("", json!({ "type": ["object", "null"], "additionalProperties": value }));
    if let Some(shape) = shape.as_object_mut() {
        shape.remove("propertyNames");
    }
    doc(shape, "Values by module and param: `host-firewall: { allow_tcp: [22] }`.")
}

fn lint_levels() -> Value {
    let codes: Vec<&str> = LintCode::ALL.iter().map(|code| code.as_str()).collect();
    let levels = LintLevel::ALL.map(LintLevel::as_str);
    doc(
        json!({
            "type": ["object", "null"], "propertyNames": { "enum": codes }, "additionalProperties": { "enum": levels },
        }),
        "Levels of lints by code: `{ dead-rule: deny }`.",
    )
}

/// A param as a module declares it.
fn param() -> Value {
    let types = params::TYPES.join("|");
    let shapes = SchemaBuilder { in_module: false };
    let mut param = object(&params::KEYS, "", |key| {
        Some(match key {
            "type" => json!({ "type": "string", "pattern": format!("^(list< *({types}) *>|{types})$") }),
            "default" => doc(json!({}), "Default value."),
            "doc" => doc(shapes.line(), "Purpose of the param."),
            "min" | "max" => json!({ "type": "integer" }),
            "pattern" => doc(json!({ "type": "string", "minLength": 1 }), "Glob that the text must match."),
            "values" => {
                shapes.set(json!({ "type": "string", "pattern": "^[A-Za-z0-9._+:/][A-Za-z0-9._+:/-]*$" }))
            }
            _ => return None,
        })
    });
    param["type"] = "object".into();
    param["required"] = json!(["type"]);
    let mut rules = Vec::new();
    for name in params::TYPES {
        let is = |pattern: String| json!({ "required": ["type"], "properties": { "type": { "pattern": pattern } } });
        let (one, list) = (format!("^{name}$"), format!("^list< *{name} *>$"));
        let value = value_of(name);
        let items = json!({ "type": "array", "items": value });
        rules.push(json!({ "if": is(one.clone()), "then": { "properties": { "default": value } } }));
        rules.push(json!({ "if": is(list.clone()), "then": { "properties": { "default": items } } }));
        // The limits of a type belong to no other.
        let limits: &[&str] = match name {
            "int" => &["min", "max"],
            "string" => &["pattern"],
            "enum" => &["values"],
            _ => continue,
        };
        let none: Vec<Value> = limits.iter().map(|limit| json!({ "required": [limit] })).collect();
        let then = if name == "enum" { json!({ "required": limits }) } else { json!({}) };
        rules.push(json!({
            "if": is(format!("{one}|{list}")), "then": then, "else": { "not": { "anyOf": none } },
        }));
    }
    param["allOf"] = Value::Array(rules);
    param
}

/// A value of a type.
fn value_of(kind: &str) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match kind {
        "bool" => json!({ "type": "boolean" }),
        "int" => json!({ "type": "integer" }),
        "cidr" => text(NETWORK),
        "ip" => text(ADDRESS),
        "mac" => text(MAC),
        "iface" => text(r"^(?!\.{1,2}\+?$)[A-Za-z0-9._@][A-Za-z0-9._@-]{0,14}\+?$"),
        "port" => json!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 65535 }, text(PORT)] }),
        _ => json!({ "type": "string", "minLength": 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that a reader takes and that has no shape here would be taken with any value.
    #[test]
    fn every_key_of_a_reader_has_a_shape() {
        fn walk(path: &str, value: &Value, open: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    for (key, value) in map {
                        let path = format!("{path}/{key}");
                        if value == &Value::Bool(true) && !path.ends_with("/uniqueItems") {
                            open.push(path.clone());
                        }
                        walk(&path, value, open);
                    }
                }
                Value::Array(list) => list.iter().for_each(|value| walk(path, value, open)),
                _ => {}
            }
        }
        let mut open = Vec::new();
        for name in ["inventory", "module", "module-test"] {
            walk(name, &schema(name).unwrap(), &mut open);
        }
        assert!(open.is_empty(), "give these keys a shape: {open:#?}");
    }
}

//! One host or group as it is written.

use super::checks;
use super::lints::{LintStatement, lints};
use super::params::substitute;
use super::reader::{InventoryReader, Spanned};
use super::resources::{DeclaredResources, KEYS};
use super::ssh::{SshStatement, ssh};
use crate::problem::{Place, Problem};
use crate::yaml::{Node, Value};

/// What stands under the name of a host or group.
#[derive(Clone, Debug)]
pub struct InventoryEntry {
    /// The name, range or group as it is written.
    pub place: Place,
    /// `address`, only of a host.
    pub address: Option<Spanned<String>>,
    /// `groups`: those of a host, or the parents of a group.
    pub groups: Option<Vec<Spanned<String>>>,
    /// `max_in_flight`, only of a group: so many of its hosts change at once.
    pub max_in_flight: Option<Spanned<usize>>,
    /// `modules`.
    pub modules: Vec<Spanned<String>>,
    /// `ssh`.
    pub ssh: SshStatement,
    /// `params`.
    pub params: Vec<ParamStatement>,
    /// `lints`.
    pub lints: Vec<LintStatement>,
    /// The resources.
    pub resources: DeclaredResources,
}

/// A value that a host or group gives to a param of a module.
#[derive(Clone, Debug)]
pub struct ParamStatement {
    /// The module.
    pub module: Spanned<String>,
    /// The param.
    pub name: Spanned<String>,
    /// The value.
    pub value: Node,
}

/// Whose entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryOwner {
    /// A host.
    Host,
    /// A range of hosts.
    Range,
    /// A group.
    Group,
}

/// The keys of an entry.
pub(super) fn keys(owner: EntryOwner) -> Vec<&'static str> {
    let mut keys = vec!["groups", "ssh", "modules", "params", "lints"];
    keys.push(if owner == EntryOwner::Group { "max_in_flight" } else { "address" });
    keys.extend(KEYS);
    keys
}

/// Reads an entry.
pub fn entry(
    node: &Node,
    place: &Place,
    owner: EntryOwner,
    reader: &mut InventoryReader<'_>,
) -> InventoryEntry {
    let mut entry = InventoryEntry {
        place: place.clone(),
        address: None,
        groups: None,
        max_in_flight: None,
        modules: vec![],
        ssh: SshStatement::default(),
        params: vec![],
        lints: vec![],
        resources: DeclaredResources::default(),
    };
    let replaced;
    let node = if reader.dollars {
        replaced = without_references(node, &mut reader.problems);
        &replaced
    } else {
        node
    };
    for pair in
        reader.fields(node, if owner == EntryOwner::Group { "a group" } else { "a host" }, &keys(owner))
    {
        let value = &pair.value;
        match pair.key.as_str() {
            "address" if owner == EntryOwner::Range => {
                let message = "an address on a range would apply to all its hosts";
                reader.wrong_help(
                    "shared-address",
                    &value.place,
                    message,
                    "write a separate entry for each host",
                );
            }
            "address" => {
                if let Some(text) = reader.line(value, "an address").map(str::to_owned)
                    && checks::host(&text, value, reader)
                {
                    entry.address = Some(Spanned::new(text, &value.place));
                }
            }
            "groups" => entry.groups = Some(reader.names(value, "group", "_.-")),
            "max_in_flight" => {
                let limit = reader.int(value, "max_in_flight", 1, i128::from(u16::MAX));
                let limit = limit.and_then(|limit| usize::try_from(limit).ok());
                entry.max_in_flight = limit.map(|limit| Spanned::new(limit, &value.place));
            }
            "modules" => entry.modules = reader.names(value, "module", "_.-"),
            "ssh" => entry.ssh = ssh(value, reader),
            "params" => entry.params = params(value, reader),
            "lints" => entry.lints = lints(value, reader),
            _ => entry.resources.read(pair, &["bridges"], reader),
        }
    }
    entry
}

fn params(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<ParamStatement> {
    let mut params = Vec::new();
    for module in reader.map(node, "params by module") {
        if matches!(module.value.value, Value::Map(_) | Value::Null) {
            for param in reader.map(&module.value, "values of params by name") {
                params.push(ParamStatement {
                    module: Spanned::new(module.key.clone(), &module.key_place),
                    name: Spanned::new(param.key.clone(), &param.key_place),
                    value: param.value.clone(),
                });
            }
        } else {
            let message = format!("expected the params of module `{}`, found a value", module.key);
            let help = format!("params are named by their module: `NAME: {{ {}: … }}`", module.key);
            reader.wrong_help("wrong-type", &module.key_place, message, help);
        }
    }
    params
}

/// Params exist only inside their module: elsewhere `$name` as a whole value is a mistake.
fn without_references(node: &Node, problems: &mut Vec<Problem>) -> Node {
    let mut none = |name: &str| {
        let message = format!("unknown param `${name}`: params exist only inside their module");
        Err(Problem::new("unknown-param", message).help("write `$$` for a dollar"))
    };
    substitute(node, &mut none, problems)
}

//! Modules: resources with params, shipped ones and those of the project.

use super::params::{ParamDeclaration, declared, substitute};
use super::reader::InventoryReader;
use super::resources::{DeclaredResources, KEYS};
use super::sets;
use crate::problem::{Problem, did_you_mean};
use crate::yaml::{Node, Pair, Style, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The modules that are part of kvmfw, by name.
pub const SHIPPED: [(&str, &str); 5] = [
    ("bridge-accept-each", include_str!("../../modules/bridge-accept-each/module.yaml")),
    ("bridge-accept-physdev", include_str!("../../modules/bridge-accept-physdev/module.yaml")),
    ("bridge-bypass", include_str!("../../modules/bridge-bypass/module.yaml")),
    ("firewall-log", include_str!("../../modules/firewall-log/module.yaml")),
    ("host-firewall", include_str!("../../modules/host-firewall/module.yaml")),
];

/// The keys of a module.
pub(super) fn keys() -> Vec<&'static str> {
    let mut keys = vec!["description", "params"];
    keys.extend(KEYS);
    keys
}

/// A module.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its file, as problems name it.
    pub file: Arc<str>,
    /// The file's text.
    pub text: Arc<str>,
    /// What it is for.
    pub description: Option<String>,
    /// Its params.
    pub params: Vec<ParamDeclaration>,
    /// The resources, params not yet put in.
    resources: Vec<Pair>,
    /// The names under its `bridges:`.
    pub bridges: Vec<String>,
    /// Whether it asks for `$bridges`.
    pub uses_bridges: bool,
}

/// The values that a module gets on a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModuleValues {
    /// Params by name.
    pub params: BTreeMap<String, Node>,
    /// `$bridges`.
    pub bridges: Vec<String>,
}

impl Module {
    /// Reads a module; what is wrong with it for all values goes to `problems`.
    pub fn read(name: &str, root: &Node, text: &Arc<str>, problems: &mut Vec<Problem>) -> Module {
        let mut reader = InventoryReader::new(text, Path::new(""), None);
        let pairs = reader.fields(root, "a module", &keys());
        let mut module = Module {
            name: name.to_owned(),
            file: root.place.file.clone(),
            text: text.clone(),
            description: None,
            params: vec![],
            resources: vec![],
            bridges: vec![],
            uses_bridges: text.contains("$bridges"),
        };
        for pair in pairs {
            match pair.key.as_str() {
                "description" => match &pair.value.value {
                    Value::Str(text) => module.description = Some(text.trim().to_owned()),
                    _ => reader.expected(&pair.value, "the description"),
                },
                "params" => module.params = declared(&pair.value, &mut reader),
                "bridges" => {
                    if let Value::Map(bridges) = &pair.value.value {
                        module.bridges = bridges.iter().map(|bridge| bridge.key.clone()).collect();
                    }
                    module.resources.push(pair.clone());
                }
                _ => module.resources.push(pair.clone()),
            }
        }
        problems.append(&mut reader.problems);
        module.resources(None, problems);
        module
    }

    /// The param of a name.
    pub fn param(&self, name: &str) -> Option<&ParamDeclaration> {
        self.params.iter().find(|param| param.name == name)
    }

    /// The names that its rules may use.
    pub fn scope(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.params.iter().map(|param| param.name.as_str()).collect();
        names.push("bridges");
        names
    }

    /// The resources with values put in; without values, what is wrong with all values.
    ///
    /// Rules keep their params.
    pub fn resources(&self, values: Option<&ModuleValues>, problems: &mut Vec<Problem>) -> DeclaredResources {
        let scope = self.scope();
        let mut value_of = |name: &str| -> Result<Option<Node>, Problem> {
            if !scope.contains(&name) {
                let mut problem = Problem::new("unknown-param", format!("unknown param `${name}`"));
                problem.help = did_you_mean(name, scope.iter().copied())
                    .or_else(|| Some("write `$$` for a dollar".into()));
                return Err(problem);
            }
            let Some(values) = values else { return Ok(None) };
            if name == "bridges" {
                return Ok(Some(self.bridge_list(values)));
            }
            Ok(values.params.get(name).cloned())
        };
        let mut resources = DeclaredResources::default();
        let mut reader = InventoryReader::new(&self.text, Path::new(""), None);
        for pair in &self.resources {
            let mut pair = pair.clone();
            if pair.key == "ipset" {
                reader.sets_of_params = sets::of_params(&pair.value);
            }
            pair.value = substitute(&pair.value, &mut value_of, &mut reader.problems);
            resources.read(&pair, &scope, &mut reader);
        }
        problems.append(&mut reader.problems);
        resources
    }

    fn bridge_list(&self, values: &ModuleValues) -> Node {
        let place = crate::problem::Place { file: self.file.clone(), line: 1, column: 1, length: 1 };
        let item = |name: &String| Node {
            value: Value::Str(name.clone()),
            style: Style::Quoted,
            place: place.clone(),
        };
        Node {
            value: Value::Seq(values.bridges.iter().map(item).collect()),
            style: Style::Plain,
            place: place.clone(),
        }
    }
}

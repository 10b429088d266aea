//! An inventory and its modules as a whole: names resolved, nothing put together yet.

use super::entry::{EntryOwner, InventoryEntry, entry};
use super::expectations::expectations;
use super::groups;
use super::lints::{LintStatement, lints};
use super::module::{Module, SHIPPED};
use super::names;
use super::reader::{InventoryReader, Spanned};
use crate::expectation::Expectation;
use crate::problem::{Place, Problem, Problems, Sources, did_you_mean};
use crate::yaml;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An inventory that was read, and the modules that it may use.
#[derive(Clone, Debug)]
pub struct Project {
    /// The inventory's name: that under which it manages hosts.
    pub name: String,
    /// The folder that has `inventories` and `modules`.
    pub root: PathBuf,
    /// The hosts in the order of the files.
    pub hosts: Vec<Host>,
    /// The groups by name.
    pub groups: BTreeMap<String, Arc<HostGroup>>,
    /// `lints:` of the inventory files.
    pub lints: Vec<LintStatement>,
    /// `extensions:` of the inventory files.
    pub extensions: Vec<Spanned<String>>,
    /// `expect:` of the inventory files.
    pub expectations: Vec<Expectation>,
    /// The modules by name; the project's wins over a shipped one.
    pub modules: BTreeMap<String, Arc<Module>>,
    /// What a person should know and no problem is.
    pub notices: Vec<String>,
    /// The texts of all files, for snippets.
    pub sources: Sources,
}

/// The groups of a host from the most general on, each with its rank (higher wins).
pub type GroupLineage = Vec<(u32, Arc<HostGroup>)>;

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// What is stated for it: by a range, then by its own entry.
    pub entries: Vec<(EntryOwner, Arc<InventoryEntry>)>,
    /// Its groups from the most general on, each with its rank (higher wins).
    pub lineage: Arc<GroupLineage>,
}

/// A group.
#[derive(Clone, Debug)]
pub struct HostGroup {
    /// Its name.
    pub name: String,
    /// What is stated for it.
    pub entry: InventoryEntry,
}

/// A file that was read but not yet parsed.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its name as problems show it.
    pub name: Arc<str>,
    /// Its folder.
    pub folder: PathBuf,
    /// Its text.
    pub text: Arc<str>,
}

/// All that was read for a project.
#[derive(Clone, Debug, Default)]
pub struct ProjectFiles {
    /// The inventory's name.
    pub name: String,
    /// The project's folder.
    pub root: PathBuf,
    /// What `~/` stands for.
    pub home: Option<PathBuf>,
    /// The files of the inventory.
    pub inventory: Vec<SourceFile>,
    /// The project's modules by name.
    pub modules: Vec<(String, SourceFile)>,
}

/// The rank of what modules state.
pub const RANK_MODULE: u32 = 0;
/// The rank of group `all`.
pub const RANK_ALL: u32 = 1;
/// The rank of the groups that a host names; each step to parents is one less.
pub const RANK_GROUP: u32 = 100_000;
/// The rank of what a range of hosts states.
pub const RANK_RANGE: u32 = 200_000;
/// The rank of what a host's own entry states.
pub const RANK_HOST: u32 = 200_001;

/// The keys of an inventory file.
pub(super) const KEYS: [&str; 5] = ["hosts", "groups", "lints", "extensions", "expect"];

/// Puts the files together.
///
/// Errors: everything that is wrong with them without looking at single hosts.
pub fn assemble(files: ProjectFiles) -> Result<Project, Problems> {
    let mut build = ProjectBuilder::default();
    let sources = files.modules.iter().map(|(_, file)| file).chain(&files.inventory);
    build.sources = sources.map(|file| (file.name.clone(), file.text.clone())).collect();
    for (name, file) in &files.modules {
        build.module(name, file);
    }
    for (name, text) in SHIPPED {
        if let Some(own) = build.modules.get(name) {
            if *own.text == *text {
                continue;
            }
            build.notices.push(format!("module {name}: the project's own is used, not the shipped one"));
            continue;
        }
        let file = SourceFile {
            name: format!("kvmfw:{name}/module.yaml").into(),
            folder: PathBuf::new(),
            text: text.into(),
        };
        build.sources.insert(file.name.clone(), file.text.clone());
        build.module(name, &file);
    }
    for file in &files.inventory {
        build.inventory(file, files.home.as_deref());
    }
    build.references();
    let hosts = build.hosts();
    if hosts.is_empty() && build.problems.is_empty() {
        let mut problem = Problem::new("no-hosts", format!("inventory `{}` has no hosts", files.name));
        if let Some(file) = files.inventory.first() {
            problem = problem.at(&file.name, 1, 1, 1);
        }
        build.problems.push(problem.help("write `hosts: { kvm01: { address: 192.0.2.1 } }`"));
    }
    if !build.problems.is_empty() {
        return Err(Problems { list: sorted(build.problems), sources: build.sources });
    }
    Ok(Project {
        name: files.name,
        root: files.root,
        hosts,
        groups: build.groups,
        lints: build.lints,
        extensions: build.extensions,
        expectations: build.expectations,
        modules: build.modules,
        notices: build.notices,
        sources: build.sources,
    })
}

/// Each problem once, in the order of files and lines.
pub fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    let key = |p: &Problem| p.place.as_ref().map(|p| (p.file.clone(), p.line, p.column));
    problems.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message)));
    problems.dedup();
    problems
}

#[derive(Default)]
struct ProjectBuilder {
    problems: Vec<Problem>,
    sources: Sources,
    notices: Vec<String>,
    modules: BTreeMap<String, Arc<Module>>,
    groups: BTreeMap<String, Arc<HostGroup>>,
    lints: Vec<LintStatement>,
    extensions: Vec<Spanned<String>>,
    expectations: Vec<Expectation>,
    /// Keys of `hosts:` in order.
    entries: Vec<(EntryOwner, Vec<String>, Arc<InventoryEntry>)>,
    /// Own entries by name.
    own: HashMap<String, Arc<InventoryEntry>>,
}

impl ProjectBuilder {
    fn module(&mut self, name: &str, file: &SourceFile) {
        match yaml::parse(&file.name, &file.text) {
            Ok(root) => {
                let module = Module::read(name, &root, &file.text, &mut self.problems);
                self.modules.insert(name.to_owned(), Arc::new(module));
            }
            Err(mut problems) => {
                self.problems.append(&mut problems);
                // It exists, so nobody has to be told that it does not.
                let empty = yaml::Node::null(&file.name);
                let module = Module::read(name, &empty, &file.text, &mut self.problems);
                self.modules.insert(name.to_owned(), Arc::new(module));
            }
        }
    }

    fn inventory(&mut self, file: &SourceFile, home: Option<&Path>) {
        let root = match yaml::parse(&file.name, &file.text) {
            Ok(root) => root,
            Err(mut problems) => return self.problems.append(&mut problems),
        };
        let mut reader = InventoryReader::new(&file.text, &file.folder, home);
        for pair in reader.fields(&root, "an inventory", &KEYS) {
            match pair.key.as_str() {
                "hosts" => {
                    for host in reader.map(&pair.value, "hosts by name") {
                        self.host(host, &mut reader);
                    }
                }
                "groups" => {
                    for group in reader.map(&pair.value, "groups by name") {
                        self.group(group, &mut reader);
                    }
                }
                "lints" => self.lints.extend(lints(&pair.value, &mut reader)),
                "extensions" => self.extensions.extend(reader.names(&pair.value, "extension", "_-")),
                "expect" => self.expectations.extend(expectations(&pair.value, &mut reader)),
                _ => {}
            }
        }
        self.problems.append(&mut reader.problems);
    }

    fn host(&mut self, pair: &yaml::Pair, reader: &mut InventoryReader<'_>) {
        let place = &pair.key_place;
        let range = pair.key.contains(['[', ']']);
        let names = match names::expand(&pair.key) {
            Ok(names) => names,
            Err(why) => return reader.wrong("bad-name", place, why),
        };
        if let Some(first) = names.first()
            && let Err(why) = names::check_host(first)
        {
            return reader.wrong("bad-name", place, format!("host `{}` {why}", first.escape_debug()));
        }
        let owner = if range { EntryOwner::Range } else { EntryOwner::Host };
        let entry = Arc::new(entry(&pair.value, place, owner, reader));
        if !range {
            let first = self.own.insert(pair.key.clone(), entry.clone());
            if let Some(first) = first {
                let message = format!("host `{}` is defined twice", pair.key);
                return reader.wrong_help(
                    "duplicate-key",
                    place,
                    message,
                    format!("the first definition is at {}", first.place),
                );
            }
        }
        self.entries.push((owner, names, entry));
    }

    fn group(&mut self, pair: &yaml::Pair, reader: &mut InventoryReader<'_>) {
        let place = &pair.key_place;
        if pair.key.is_empty() || !reader.is_word(&pair.key, place, "group", "_.-") {
            return;
        }
        let entry = entry(&pair.value, place, EntryOwner::Group, reader);
        if pair.key == "all"
            && let Some(parent) = entry.groups.as_ref().and_then(|groups| groups.first())
        {
            let message = "group `all` has no parents: it is the parent of all";
            reader.wrong("group-cycle", &parent.place, message);
        }
        let group = HostGroup { name: pair.key.clone(), entry };
        if let Some(first) = self.groups.get(&pair.key) {
            let help = format!("the first definition is at {}", first.entry.place);
            return reader.wrong_help(
                "duplicate-key",
                place,
                format!("group `{}` is defined twice", pair.key),
                help,
            );
        }
        self.groups.insert(pair.key.clone(), Arc::new(group));
    }

    /// Checks that groups, modules and params that are named exist.
    fn references(&mut self) {
        let groups: Vec<Arc<HostGroup>> = self.groups.values().cloned().collect();
        let entries = groups.iter().map(|group| &group.entry);
        let hosts: Vec<Arc<InventoryEntry>> = self.entries.iter().map(|(.., entry)| entry.clone()).collect();
        for entry in entries.chain(hosts.iter().map(Arc::as_ref)) {
            for name in entry.groups.iter().flatten() {
                if !self.groups.contains_key(&name.value) && name.value != "all" {
                    let known = self.groups.keys().map(String::as_str);
                    self.problems.push(missing(
                        "unknown-group",
                        "group",
                        name,
                        did_you_mean(&name.value, known),
                    ));
                }
            }
            self.problems.extend(unknown_names(entry, &self.modules));
        }
        self.problems.extend(groups::cycles(&self.groups));
    }

    /// The hosts; only complete when there is no problem.
    fn hosts(&mut self) -> Vec<Host> {
        let mut hosts: Vec<Host> = Vec::new();
        let mut by_range: HashMap<String, Place> = HashMap::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut lineages: HashMap<Vec<String>, Arc<GroupLineage>> = HashMap::new();
        let whole = self.problems.is_empty();
        for (owner, names, entry) in std::mem::take(&mut self.entries) {
            for name in names {
                if owner == EntryOwner::Range
                    && let Some(first) = by_range.insert(name.clone(), entry.place.clone())
                {
                    let message = format!("host `{name}` is in two ranges");
                    let help = format!("the other definition is at {first}");
                    self.problems
                        .push(Problem::new("duplicate-key", message).at_place(&entry.place).help(help));
                    break;
                }
                if let Some(at) = seen.get(&name) {
                    // Own entry first, then the range, or the other way round.
                    let host: &mut Host = &mut hosts[*at];
                    host.entries.push((owner, entry.clone()));
                    host.entries.sort_by_key(|(owner, _)| *owner == EntryOwner::Host);
                    continue;
                }
                seen.insert(name.clone(), hosts.len());
                hosts.push(Host { name, entries: vec![(owner, entry.clone())], lineage: Arc::default() });
            }
        }
        if !whole || !self.problems.is_empty() {
            return hosts;
        }
        for host in &mut hosts {
            let stated = host.entries.iter().rev().find_map(|(_, entry)| entry.groups.as_ref());
            let names: Vec<String> = stated.into_iter().flatten().map(|name| name.value.clone()).collect();
            let by_name = &self.groups;
            host.lineage = lineages
                .entry(names)
                .or_insert_with_key(|names| Arc::new(groups::lineage(names, by_name)))
                .clone();
        }
        hosts
    }
}

fn missing(code: &'static str, what: &str, name: &Spanned<String>, help: Option<String>) -> Problem {
    let mut problem = Problem::new(code, format!("unknown {what} `{}`", name.value)).at_place(&name.place);
    problem.help = help;
    problem
}

/// Modules that an entry names and that there are none of, and what is wrong with params.
pub(super) fn unknown_names(entry: &InventoryEntry, modules: &BTreeMap<String, Arc<Module>>) -> Vec<Problem> {
    let known = || modules.keys().map(String::as_str);
    let unknown = entry.modules.iter().filter(|name| !modules.contains_key(&name.value));
    let mut problems: Vec<Problem> = unknown
        .map(|name| {
            missing("unknown-module", "module", name, did_you_mean(&name.value, known().collect::<Vec<_>>()))
        })
        .collect();
    problems.extend(params(entry, modules));
    problems
}

/// What is wrong with the values that an entry gives to params.
fn params(entry: &InventoryEntry, modules: &BTreeMap<String, Arc<Module>>) -> Vec<Problem> {
    let mut reader = InventoryReader::new("", Path::new(""), None);
    for param in &entry.params {
        let Some(module) = modules.get(&param.module.value) else {
            let help = did_you_mean(&param.module.value, modules.keys().map(String::as_str));
            let problem = missing("unknown-module", "module", &param.module, help);
            if !reader.problems.contains(&problem) {
                reader.problems.push(problem);
            }
            continue;
        };
        match module.param(&param.name.value) {
            Some(declared) => declared.kind.check(&param.name.value, &param.value, &mut reader),
            None => {
                let known: Vec<&str> = module.params.iter().map(|p| p.name.as_str()).collect();
                let message = format!("module {} has no param `{}`", module.name, param.name.value);
                let mut problem = Problem::new("unknown-param", message).at_place(&param.name.place);
                problem.help = did_you_mean(&param.name.value, known.iter().copied());
                reader.problems.push(problem);
            }
        }
    }
    reader.problems
}

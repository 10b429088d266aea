//! Puts together what is stated for a host.

use super::merge::{CompileReport, EffectiveValue, MergeSlot};
use super::{Desired, SchedulingConstraints, bridges, connection, lints, rules, scheduling, sets, sysctl};
use crate::interner::Interner;
use crate::inventory::{
    DeclaredResources, EntryOwner, Host, InventoryEntry, Module, ModuleValues, Project, RANK_HOST,
    RANK_MODULE, RANK_RANGE, RuleStatement, Spanned, shown, sorted,
};
use crate::problem::{Problem, Warning};
use crate::resource::iptables::DeclaredRule;
use crate::resource::iptables::expand::{ParamElement, ParamScope, ParamValue};
use crate::yaml::Node;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Compiles the desired state of hosts, in the order given.
///
/// Errors: everything that is wrong with them; one problem of many hosts is one problem.
pub fn compile(project: &Project, hosts: &[String]) -> Result<Vec<Desired>, Vec<Problem>> {
    let compiler = HostCompiler::new(project);
    let by_name: HashMap<&str, &Host> = project.hosts.iter().map(|host| (host.name.as_str(), host)).collect();
    let done: Vec<(Option<Desired>, Vec<Problem>)> = hosts
        .par_iter()
        .map(|name| match by_name.get(name.as_str()) {
            Some(host) => {
                let mut out = CompileReport::default();
                let desired = compiler.host(host, &mut out);
                (Some(desired), out.problems)
            }
            None => (None, vec![Problem::new("unknown-host", format!("unknown host `{name}`"))]),
        })
        .collect();
    if done.iter().all(|(_, problems)| problems.is_empty()) {
        let mut all: Vec<Desired> = done.into_iter().filter_map(|(desired, _)| desired).collect();
        let twice = twice(&all, &by_name);
        if !twice.is_empty() {
            return Err(sorted(twice));
        }
        scheduling::mark_jump_hosts(&mut all);
        return Ok(all);
    }
    Err(collected(hosts.iter().zip(done.into_iter().map(|(_, problems)| problems))))
}

/// Every effective value of a host with the place where it was stated; empty if there is no such host.
pub fn explain_host(project: &Project, host: &str) -> Vec<EffectiveValue> {
    let Some(host) = project.hosts.iter().find(|known| known.name == host) else { return vec![] };
    let mut out = CompileReport { facts: Some(Vec::new()), ..CompileReport::default() };
    HostCompiler::new(project).host(host, &mut out);
    out.facts.unwrap_or_default()
}

/// Names of one host: each would take away what only the other states.
fn twice(all: &[Desired], by_name: &HashMap<&str, &Host>) -> Vec<Problem> {
    let mut first: HashMap<_, &str> = HashMap::new();
    let mut problems = Vec::new();
    let place = |host: &str| Some(&by_name.get(host)?.entries.last()?.1.place);
    for desired in all {
        // Behind another jump host, or with other options (BindInterface), the same address may be another host.
        let to = &desired.connection;
        let Some(first) = first.insert((&to.address, to.port, &to.jump, &to.options), &desired.host) else {
            continue;
        };
        let message = format!(
            "`{first}` and `{}` are the same host: both have the address {}",
            desired.host, to.address
        );
        let mut problem = Problem::new("duplicate-address", message);
        if let Some(place) = place(&desired.host) {
            problem = problem.at_place(place);
        }
        if let Some(place) = place(first) {
            problem = problem.help(format!(
                "the other definition is at {place}; keep one name with the settings of \
                    both"
            ));
        }
        problems.push(problem);
    }
    problems
}

/// The problems of all hosts, each once, saying on which hosts.
fn collected<'a>(hosts: impl Iterator<Item = (&'a String, Vec<Problem>)>) -> Vec<Problem> {
    let mut order: Vec<(Problem, &String, usize)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (host, problems) in hosts {
        let mut once = HashSet::new();
        for problem in problems {
            let key = problem.to_string();
            if !once.insert(key.clone()) {
                continue;
            }
            match known.get(&key) {
                Some(at) => order[*at].2 += 1,
                None => {
                    known.insert(key, order.len());
                    order.push((problem, host, 1));
                }
            }
        }
    }
    let named = order.into_iter().map(|(mut problem, host, count)| {
        let on = match count {
            1 => format!(" on host {host}"),
            _ => format!(" on host {host} and {} more", count - 1),
        };
        problem.message.push_str(&on);
        problem
    });
    sorted(named.collect())
}

/// A module with the params of some host put in.
struct ModuleInstance {
    resources: DeclaredResources,
    problems: Vec<Problem>,
}

/// Instances by module and values; hosts whose values agree share one.
type InstanceCache = HashMap<(String, String), Arc<ModuleInstance>>;

struct HostCompiler<'a> {
    project: &'a Project,
    instances: Mutex<InstanceCache>,
    /// The rules of a chain are mostly those of other hosts as well.
    rules: Interner<Vec<DeclaredRule>>,
    /// So are the members of a set.
    members: sets::SharedMembers,
}

/// A module or an entry in the order in which they are composed.
enum ComposedSource<'a> {
    Module(Arc<ModuleInstance>),
    Entry(u32, &'a InventoryEntry),
}

impl ComposedSource<'_> {
    fn resources(&self) -> (u32, &DeclaredResources) {
        match self {
            ComposedSource::Module(instance) => (RANK_MODULE, &instance.resources),
            ComposedSource::Entry(rank, entry) => (*rank, &entry.resources),
        }
    }
}

impl<'a> HostCompiler<'a> {
    fn new(project: &'a Project) -> Self {
        Self {
            project,
            instances: Mutex::default(),
            rules: Interner::default(),
            members: sets::SharedMembers::default(),
        }
    }

    fn host(&self, host: &'a Host, out: &mut CompileReport) -> Desired {
        let groups = host.lineage.iter().map(|(rank, group)| (*rank, &group.entry));
        let own = host.entries.iter().map(|(owner, entry)| {
            (if *owner == EntryOwner::Host { RANK_HOST } else { RANK_RANGE }, entry.as_ref())
        });
        let entries: Vec<(u32, &InventoryEntry)> = groups.chain(own).collect();
        let connection = connection::connection(&host.name, &entries, out);
        for (_, group) in host.lineage.iter() {
            out.fact(|| "groups".to_owned(), || group.name.clone(), &group.entry.place);
            if let Some(limit) = &group.entry.max_in_flight {
                let value = || format!("{} ({})", limit.value, group.name);
                out.fact(|| "max_in_flight".to_owned(), value, &limit.place);
            }
        }
        let sources = self.sources(&entries, out);
        let resources: Vec<(u32, &DeclaredResources)> =
            sources.iter().map(ComposedSource::resources).collect();
        for (_, stated) in &resources {
            out.warnings.extend(stated.warnings.iter().cloned());
        }
        let scope =
            ParamScope::from([("bridges".to_owned(), bridge_param(&bridge_names(&entries, self.project)))]);
        let sysctl = sysctl::files(&resources, out);
        let bridges = bridges::bridges(&resources, out);
        let sets = sets::sets(&resources, &self.members, out);
        let mut rules = rules::rules(&resources, &self.project.extensions, &scope, out);
        sets::link(&rules, &sets, out);
        let tables = rules.values_mut().flat_map(|family| family.tables.values_mut());
        for chain in tables.flat_map(|table| table.chains.values_mut()) {
            self.rules.intern(&mut chain.rules);
        }
        let checks = connection::checks(resources.iter().map(|(_, r)| *r), out);
        let stated = self.project.expectations.iter();
        let stated = stated.chain(resources.iter().flat_map(|(_, stated)| &stated.expectations));
        let expectations = connection::expectations(stated, out);
        let mut lints = lints::policy(&self.project.lints, &entries, out);
        let allowed = resources.iter().flat_map(|(_, stated)| &stated.allowed_rules);
        lints.allowed_rules = allowed.cloned().collect();
        let mut seen: HashSet<&Warning> = HashSet::new();
        let warnings = out.warnings.iter().filter(|w| seen.insert(w)).cloned().collect();
        Desired {
            host: host.name.clone(),
            inventory: self.project.name.clone(),
            connection,
            sysctl,
            rules,
            sets,
            bridges,
            checks,
            expectations,
            stanza: None,
            scheduling: SchedulingConstraints::new(&host.lineage),
            jump_hosts: Arc::default(),
            lints: Arc::new(lints),
            warnings,
        }
    }

    /// Modules before the text of the entry that asks for them, each once.
    fn sources<'e>(
        &'e self,
        entries: &[(u32, &'e InventoryEntry)],
        out: &mut CompileReport,
    ) -> Vec<ComposedSource<'e>> {
        let bridges = bridge_names(entries, self.project);
        let mut given: HashMap<(&'e str, &'e str), MergeSlot<GivenValue<'e>>> = HashMap::new();
        for (rank, entry) in entries {
            for param in &entry.params {
                let slot = given.entry((&param.module.value, &param.name.value)).or_default();
                slot.offer(*rank, GivenValue(&param.value), &param.name.place);
            }
        }
        let mut seen: HashSet<&str> = HashSet::new();
        let mut sources = Vec::new();
        for (rank, entry) in entries {
            for name in &entry.modules {
                let module = self.project.modules.get(&name.value).filter(|_| seen.insert(&name.value));
                if let Some(module) = module {
                    out.fact(|| "modules".to_owned(), || name.value.clone(), &name.place);
                    if let Some(values) = values(module, name, &mut given, &bridges, out) {
                        let instance = self.instance(module, values);
                        out.problems.extend(instance.problems.iter().cloned());
                        sources.push(ComposedSource::Module(instance));
                    }
                }
            }
            sources.push(ComposedSource::Entry(*rank, entry));
        }
        sources
    }

    fn instance(&self, module: &Arc<Module>, values: ModuleValues) -> Arc<ModuleInstance> {
        let mut key = String::new();
        for (name, value) in &values.params {
            key.push_str(&format!("{name}={}\n", shown(value)));
        }
        if module.uses_bridges {
            key.push_str(&values.bridges.join(","));
        }
        let key = (module.name.clone(), key);
        let known = |instances: &InstanceCache| instances.get(&key).cloned();
        // A poisoned lock only means that another thread died while it held a whole map.
        if let Some(instance) = known(&self.instances.lock().unwrap_or_else(|e| e.into_inner())) {
            return instance;
        }
        let instance = Arc::new(instantiate(module, &values));
        let mut instances = self.instances.lock().unwrap_or_else(|e| e.into_inner());
        instances.entry(key).or_insert(instance).clone()
    }
}

/// A given value; two are equal if they say the same, wherever they stand.
struct GivenValue<'a>(&'a Node);

impl PartialEq for GivenValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        shown(self.0) == shown(other.0)
    }
}

/// The values of a module on a host; `None` if a param has none.
fn values<'m>(
    module: &'m Module,
    used: &Spanned<String>,
    given: &mut HashMap<(&'m str, &'m str), MergeSlot<GivenValue<'m>>>,
    bridges: &[String],
    out: &mut CompileReport,
) -> Option<ModuleValues> {
    let mut values = ModuleValues { bridges: bridges.to_vec(), ..ModuleValues::default() };
    let mut complete = true;
    for param in &module.params {
        let path = || format!("params.{}.{}", module.name, param.name);
        let stated = given.remove(&(module.name.as_str(), param.name.as_str()));
        let value = match stated.and_then(|slot| slot.take(|| format!("`{}`", path()), out)) {
            Some((value, place)) => Some((value.0.clone(), place)),
            None => param.default.clone().map(|value| (value, param.place.clone())),
        };
        match value {
            Some((value, place)) => {
                out.fact(path, || shown(&value), &place);
                values.params.insert(param.name.clone(), value);
            }
            None => {
                complete = false;
                let message = format!("module {} needs a value for param `{}`", module.name, param.name);
                out.problems.push(Problem::new("missing-param", message).at_place(&used.place).help(
                    format!(
                        "write `params: {{ {}: {{ {}: … }} }}`; it is declared at {}",
                        module.name, param.name, param.place
                    ),
                ));
            }
        }
    }
    complete.then_some(values)
}

fn instantiate(module: &Module, values: &ModuleValues) -> ModuleInstance {
    let mut problems = Vec::new();
    let mut resources = module.resources(Some(values), &mut problems);
    let mut scope = ParamScope::from([("bridges".to_owned(), bridge_param(&values.bridges))]);
    for param in &module.params {
        if let Some(value) = values.params.get(&param.name) {
            scope.insert(param.name.clone(), param.kind.param(value));
        }
    }
    let mut warnings = Vec::new();
    for chain in &mut resources.chains {
        for at in 0..chain.sections.len() {
            let ready = chain.sections[at].iter().flat_map(|rule| match rule {
                RuleStatement::Ready(checked) => vec![checked.clone()],
                RuleStatement::Template(template) => {
                    rules::expand(template, chain, &scope, &mut problems, &mut warnings)
                }
            });
            let ready: Vec<RuleStatement> = ready.map(RuleStatement::Ready).collect();
            chain.sections[at] = Arc::new(ready);
        }
    }
    resources.warnings = warnings;
    ModuleInstance { resources, problems }
}

/// The names under `bridges:` of all sources, in the order in which they are composed.
fn bridge_names(entries: &[(u32, &InventoryEntry)], project: &Project) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut modules: HashSet<&str> = HashSet::new();
    for (_, entry) in entries {
        let used = entry.modules.iter().filter(|name| modules.insert(&name.value));
        let of_modules =
            used.filter_map(|name| project.modules.get(&name.value)).flat_map(|module| &module.bridges);
        let own = entry.resources.bridges.iter().map(|bridge| &bridge.name.value);
        for name in of_modules.chain(own) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

fn bridge_param(names: &[String]) -> ParamValue {
    ParamValue::List(names.iter().map(|name| ParamElement { text: name.clone(), family: None }).collect())
}

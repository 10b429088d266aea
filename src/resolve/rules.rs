//! Chains of a host, composed: all `first`, then all `rules`, then all `last`.

use super::merge::{CompileReport, MergeSlot};
use crate::inventory::{ChainStatement, DeclaredResources, RuleStatement, Spanned};
use crate::problem::{LintCode, Place, Problem, Warning, did_you_mean};
use crate::resource::iptables::expand::{self, ParamScope};
use crate::resource::iptables::extensions::target_names;
use crate::resource::iptables::rule::{self, CheckedRule};
use crate::resource::iptables::text::RuleTemplate;
use crate::resource::iptables::{
    ChainPolicy, DeclaredChain, DeclaredRules, IpFamily, JumpPosition, PREFIX, TableRules,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

struct ChainMerge<'a> {
    text: &'a ChainStatement,
    policy: MergeSlot<ChainPolicy>,
    jump: MergeSlot<JumpPosition>,
    sections: [Vec<&'a ChainStatement>; 3],
}

/// The chains of one table by the names that people give them.
type ChainTable<'a> = BTreeMap<&'a str, ChainMerge<'a>>;

/// What the rules of a host may name although the rules themselves do not define it.
#[derive(Default)]
struct DeclaredNames<'a> {
    /// `unmanaged_chains`.
    chains: BTreeMap<&'a str, &'a Place>,
    /// `extensions`.
    extensions: BTreeMap<&'a str, &'a Place>,
}

/// Composes the rules of both families; `scope` is what rules of hosts and groups may use, `extensions` are those of
/// the inventory.
pub fn rules(
    sources: &[(u32, &DeclaredResources)],
    extensions: &[Spanned<String>],
    scope: &ParamScope,
    out: &mut CompileReport,
) -> BTreeMap<IpFamily, DeclaredRules> {
    let mut merged: BTreeMap<(IpFamily, &str), ChainTable<'_>> = BTreeMap::new();
    let mut names = DeclaredNames::default();
    for name in extensions {
        names.extensions.entry(&name.value).or_insert(&name.place);
    }
    for (rank, resources) in sources {
        for name in &resources.unmanaged_chains {
            names.chains.entry(&name.value).or_insert(&name.place);
        }
        for name in &resources.extensions {
            names.extensions.entry(&name.value).or_insert(&name.place);
        }
        for text in &resources.chains {
            let table = merged.entry((text.family, &text.table)).or_default();
            let merge = table.entry(&text.name.value).or_insert_with(|| ChainMerge {
                text,
                policy: MergeSlot::default(),
                jump: MergeSlot::default(),
                sections: Default::default(),
            });
            if let Some(policy) = &text.policy {
                merge.policy.offer(*rank, policy.value, &policy.place);
            }
            if let Some(hook) = &text.hook {
                merge.jump.offer(*rank, hook.value, &hook.place);
            }
            for (all, own) in merge.sections.iter_mut().zip(&text.sections) {
                if !own.is_empty() {
                    all.push(text);
                }
            }
        }
    }
    let mut families: BTreeMap<IpFamily, DeclaredRules> = BTreeMap::new();
    for ((family, name), table) in merged {
        let done = finish(family, name, table, &names, scope, out);
        if !done.chains.is_empty() || !done.policies.is_empty() {
            families.entry(family).or_default().tables.insert(name.to_owned(), done);
        }
    }
    for (key, stated) in [("unmanaged_chains", &names.chains), ("extensions", &names.extensions)] {
        for (name, place) in stated {
            out.fact(|| key.to_owned(), || (*name).to_owned(), place);
        }
    }
    one_family(&families, out);
    families
}

fn finish(
    family: IpFamily,
    table: &str,
    merged: ChainTable<'_>,
    names: &DeclaredNames<'_>,
    scope: &ParamScope,
    out: &mut CompileReport,
) -> TableRules {
    let mut done = TableRules::default();
    let own: BTreeSet<&str> =
        merged.values().filter(|m| !m.text.entered()).map(|m| m.text.name.value.as_str()).collect();
    for name in &own {
        if let Some(place) = names.chains.get(name) {
            let message = format!("chain `{name}` is declared here and named in `unmanaged_chains`");
            let problem = Problem::new("own-foreign-chain", message).at_place(place);
            out.problems.push(problem.help(format!("it is declared at {}", merged[name].text.name.place)));
        }
    }
    let merged_names: BTreeSet<&str> = merged.keys().copied().collect();
    let mut jumps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, merge) in merged {
        let path = || format!("{family}.{table}.{name}");
        if let Some((policy, place)) = merge.policy.take(|| format!("`{}.policy`", path()), out) {
            out.fact(|| format!("{}.policy", path()), || policy.to_string(), &place);
            done.policies.insert(name.to_owned(), (policy, place.origin()));
        }
        let hook = merge.jump.take(|| format!("`{}.jump`", path()), out);
        if let Some((hook, place)) = &hook {
            out.fact(|| format!("{}.jump", path()), || format!("{hook:?}").to_lowercase(), place);
        }
        let mut rules = Vec::new();
        for (at, texts) in merge.sections.iter().enumerate() {
            for rule in texts.iter().flat_map(|text| text.sections[at].iter()) {
                for checked in expanded(rule, merge.text, scope, out).iter() {
                    let enters_itself = !checked.extension && checked.target() == name;
                    let resolved = match enters_itself && merge.text.entered() {
                        true => Err(itself(checked, name)),
                        false => target(checked, table, &own, names)
                            .map_err(|problem| entered_help(problem, checked, &merged_names)),
                    };
                    let target = match resolved.and_then(|target| declared(checked, names).map(|()| target)) {
                        Ok(target) => target,
                        Err(problem) => {
                            out.problems.push(problem);
                            continue;
                        }
                    };
                    if !checked.extension && own.contains(checked.target()) {
                        jumps.entry(name.to_owned()).or_default().insert(checked.target().to_owned());
                    }
                    let rule = checked.rule(&target);
                    if rule.text.contains("-set ") {
                        out.set_rules.insert(rule.origin.clone(), checked.place.clone());
                    }
                    out.fact(
                        || format!("{}[{}]", path(), rules.len() + 1),
                        || rule.text.clone(),
                        &checked.place,
                    );
                    rules.push(rule);
                }
            }
        }
        let entered = merge.text.entered();
        if entered && rules.is_empty() {
            continue;
        }
        let hook = entered.then(|| (name.to_owned(), hook.map(|(hook, _)| hook).unwrap_or_default()));
        let origin = merge.text.name.place.origin();
        done.chains
            .insert(format!("{PREFIX}{name}"), DeclaredChain { jump: hook, rules: Arc::new(rules), origin });
    }
    loops(family, table, &jumps, &done, out);
    let entered: BTreeSet<&str> = jumps.values().flatten().map(String::as_str).collect();
    for name in own.iter().filter(|name| !entered.contains(*name)) {
        let origin = done.chains.get(&format!("{PREFIX}{name}")).map(|chain| chain.origin.clone());
        let message = format!("no rule of {family} {table} jumps to chain `{name}`");
        out.warnings.push(Warning::new(LintCode::UnusedChain, message, origin));
    }
    done
}

/// The rules that a text stands for on this host.
fn expanded<'a>(
    text: &'a RuleStatement,
    chain: &ChainStatement,
    scope: &ParamScope,
    out: &mut CompileReport,
) -> Cow<'a, [CheckedRule]> {
    match text {
        RuleStatement::Ready(checked) => Cow::Borrowed(std::slice::from_ref(checked)),
        RuleStatement::Template(template) => {
            Cow::Owned(expand(template, chain, scope, &mut out.problems, &mut out.warnings))
        }
    }
}

/// Puts params into a rule and checks what comes out.
pub fn expand(
    template: &RuleTemplate,
    chain: &ChainStatement,
    scope: &ParamScope,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Vec<CheckedRule> {
    let expansion = match expand::expand(template, scope, chain.family) {
        Ok(expansion) => expansion,
        Err(problem) => {
            problems.push(problem);
            return vec![];
        }
    };
    if let Some(list) = expansion.empty {
        let message = format!(
            "`${list}` is empty: this rule expands to nothing in {} {}",
            chain.family, chain.name.value
        );
        warnings.push(Warning::new(LintCode::EmptyList, message, Some(template.place.origin())));
    }
    expansion.rules.iter().filter_map(|words| rule::check(words, chain.context(), problems)).collect()
}

/// Whether what is not known of the rule's extensions is declared.
fn declared(rule: &CheckedRule, names: &DeclaredNames<'_>) -> Result<(), Problem> {
    let is_declared = |name: &String| names.extensions.contains_key(name.as_str());
    let wrong = rule.undeclared.iter().find(|one| !one.extensions.iter().any(is_declared));
    wrong.map_or(Ok(()), |one| Err(one.problem.clone()))
}

/// A chain that is entered by a jump rule of ours, and that our rules for it enter again.
fn itself(rule: &CheckedRule, chain: &str) -> Problem {
    let problem = Problem::new("chain-loop", format!("a rule of chain `{chain}` jumps to the chain itself"));
    match &rule.target {
        Some((_, place)) => problem.at_place(place),
        None => problem,
    }
}

/// What a target is called on the host.
fn target<'a>(
    rule: &'a CheckedRule,
    table: &str,
    own: &BTreeSet<&str>,
    names: &DeclaredNames<'_>,
) -> Result<Cow<'a, str>, Problem> {
    let Some((name, place)) = &rule.target else { return Ok(Cow::Borrowed("")) };
    let name = name.as_str();
    if !rule.extension && own.contains(name) {
        return Ok(Cow::Owned(format!("{PREFIX}{name}")));
    }
    if rule.extension || names.chains.contains_key(name) || names.extensions.contains_key(name) {
        return Ok(Cow::Borrowed(name));
    }
    let named = names.chains.keys().chain(names.extensions.keys()).copied();
    let targets = target_names().map(|name| -> &str { name });
    let known = own.iter().copied().chain(named).chain(targets);
    let near = did_you_mean(name, known);
    let is_like_target = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    let help = near.unwrap_or_else(|| match is_like_target {
        false => format!("declare it, or add `unmanaged_chains: [{name}]` if another program creates it"),
        true => format!(
            "declare it, or add `unmanaged_chains: [{name}]` if another program creates it, or \
             `extensions: [{name}]` if it is a target of the hosts"
        ),
    });
    let message = format!("unknown target or chain `{name}` in table {table}");
    Err(Problem::new("unknown-chain", message).at_place(place).help(help))
}

/// A chain of another program for which rules are declared is not one that rules of ours may jump to.
fn entered_help(problem: Problem, rule: &CheckedRule, declared: &BTreeSet<&str>) -> Problem {
    let name = rule.target();
    if !declared.contains(name) {
        return problem;
    }
    let message =
        format!("chain `{name}` belongs to another program, and no rule of the inventory jumps to it");
    let help = format!("to jump to it from a rule as well, add `unmanaged_chains: [{name}]`");
    Problem { message, ..problem }.help(help)
}

/// The kernel refuses rules that go round.
fn loops(
    family: IpFamily,
    table: &str,
    jumps: &BTreeMap<String, BTreeSet<String>>,
    done: &TableRules,
    out: &mut CompileReport,
) {
    let mut clear: BTreeSet<&str> = BTreeSet::new();
    for start in jumps.keys() {
        let mut path: Vec<&str> = Vec::new();
        let mut stack: Vec<(&str, bool)> = vec![(start, false)];
        while let Some((name, visited)) = stack.pop() {
            if visited {
                clear.insert(name);
                path.pop();
                continue;
            }
            if path.contains(&name) {
                let message = format!("cycle of chains in {family} {table}: {} → {name}", path.join(" → "));
                let mut problem = Problem::new("chain-loop", message);
                if let Some(chain) = done.chains.get(&format!("{PREFIX}{name}")) {
                    problem = problem.at(&chain.origin.file, chain.origin.line, 1, 1);
                }
                out.problems.push(problem);
                return;
            }
            if clear.contains(name) {
                continue;
            }
            path.push(name);
            stack.push((name, true));
            stack.extend(jumps.get(name).into_iter().flatten().map(|next| (next.as_str(), false)));
        }
    }
}

/// Rules for IPv4 alone leave IPv6 open.
fn one_family(families: &BTreeMap<IpFamily, DeclaredRules>, out: &mut CompileReport) {
    let filter = |family| families.get(&family).and_then(|rules| rules.tables.get("filter"));
    let Some(v4) = filter(IpFamily::V4) else { return };
    let Some(v6) = filter(IpFamily::V6) else {
        let origin = v4.chains.values().map(|chain| chain.origin.clone()).next();
        let message =
            "iptables has filter rules and ip6tables has none: over IPv6 everything passes".to_owned();
        out.warnings.push(Warning::new(LintCode::Ipv6Missing, message, origin));
        return;
    };
    for chain in ["INPUT", "FORWARD"] {
        let own = format!("{PREFIX}{chain}");
        let Some(origin) = v4.chains.get(&own).map(|found| found.origin.clone()) else { continue };
        if !v6.chains.contains_key(&own) && !v6.policies.contains_key(chain) {
            let message = format!(
                "iptables has rules in {chain} and ip6tables has none there: over IPv6 everything passes it"
            );
            out.warnings.push(Warning::new(LintCode::Ipv6Missing, message, Some(origin)));
        }
    }
}

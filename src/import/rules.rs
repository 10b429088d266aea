//! Rules of a host: those of nobody known are stated, the others are named.

use super::comment;
use crate::characters::is_harmless;
use crate::host_state::Observed;
use crate::inventory::{check_chain, quoted};
use crate::plan::bridge_maker;
use crate::problem::{Place, Problem};
use crate::resource::iptables::chain_writers::chain_writer;
use crate::resource::iptables::rule::{self, CheckedRule, RuleContext};
use crate::resource::iptables::save::{SaveChain, SaveTable, jump, tokens};
use crate::resource::iptables::targets::is_set_option;
use crate::resource::iptables::text::{TextLine, split};
use crate::resource::iptables::{ChainPolicy, IpFamily, JUMP_COMMENT, PREFIX, is_administrators, is_builtin};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The rules of a host, sorted by whether they can be stated.
pub(super) struct RuleImport<'a> {
    observed: &'a Observed,
    /// Names of user chains that are left out, and why.
    left: BTreeMap<&'a str, String>,
}

/// A rule of a built-in chain.
enum BuiltinRule<'a> {
    Stated(&'a str),
    /// Why not.
    Left(&'a str, String),
}

impl<'a> RuleImport<'a> {
    pub(super) fn new(observed: &'a Observed) -> Self {
        let mut found = Self { observed, left: BTreeMap::new() };
        for (family, name, _, chain) in found.chains() {
            if is_builtin(name, &chain.name) {
                continue;
            }
            // One name is either ours or foreign, in all tables.
            if let Some(why) = found.why_not(family, name, chain) {
                found.left.insert(&chain.name, why);
            }
        }
        found
    }

    /// Every chain that is not kvmfw's.
    fn chains(&self) -> Vec<(IpFamily, &'a str, &'a SaveTable, &'a SaveChain)> {
        let mut all = Vec::new();
        for (family, rules) in &self.observed.rules {
            for (name, table) in &rules.live.tables {
                let unmanaged = table.chains().iter().filter(|chain| !chain.is_managed());
                all.extend(unmanaged.map(|chain| (*family, name.as_str(), table, chain)));
            }
        }
        all
    }

    /// Why a user chain is left out as a whole: one rule less, and it would say something else.
    fn why_not(&self, family: IpFamily, table: &str, chain: &SaveChain) -> Option<String> {
        if let Some(who) = self.owner(&chain.name).filter(|_| !is_administrators(table, &chain.name)) {
            return Some(format!("{who} writes it"));
        }
        if let Err(problem) = check_chain(table, &chain.name) {
            return Some(problem.message);
        }
        let why = |rule: &String| Some(format!("`{rule}`: {}", refused(rule, family, table, chain)?));
        chain.rules.iter().filter(|rule| !enters_ours(rule)).find_map(why)
    }

    /// Who writes a chain of this name.
    fn owner(&self, chain: &str) -> Option<&'static str> {
        let firewalld =
            || self.observed.other_filters.managers.iter().any(|m| m == "firewalld").then_some("firewalld");
        chain_writer(chain).or_else(firewalld)
    }

    /// The rules of a built-in chain, less our hooks.
    fn rules(&self, family: IpFamily, table: &str, chain: &'a SaveChain) -> Vec<BuiltinRule<'a>> {
        let judge = |rule: &'a String| match self.writer(rule) {
            Some(who) => BuiltinRule::Left(rule, format!("of {who}")),
            None => match refused(rule, family, table, chain) {
                Some(why) => BuiltinRule::Left(rule, why),
                None => BuiltinRule::Stated(rule),
            },
        };
        chain.rules.iter().filter(|rule| !enters_ours(rule)).map(judge).collect()
    }

    /// Who writes a rule of a built-in chain, by what it jumps to, whose bridge it names, what it says.
    fn writer(&self, rule: &str) -> Option<String> {
        if let Some(target) = jump(rule).map(|jump| jump.target)
            && let Some(who) = self.owner(&target)
        {
            return Some(who.to_owned());
        }
        let words = tokens(rule).unwrap_or_default();
        for pair in words.windows(2) {
            match &*pair[0] {
                "-i" | "-o" | "--physdev-in" | "--physdev-out" => {
                    if let Some(who) = bridge_maker(&pair[1], self.observed) {
                        return Some(format!("{who}: it names its bridge {}", pair[1]));
                    }
                }
                "--comment" if pair[1].starts_with("kubernetes ") => return Some("kube-proxy".to_owned()),
                "--comment" if pair[1].starts_with("cali:") => return Some("Calico".to_owned()),
                _ => {}
            }
        }
        self.owner("").map(str::to_owned)
    }

    /// Chains of others that stated rules jump to.
    pub(super) fn unmanaged_chains(&self, text: &mut String) {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for (family, name, table, chain) in self.chains() {
            for rule in self.stated(family, name, chain) {
                if let Some(target) = jump(rule).map(|jump| jump.target)
                    && let Some(chain) = table.chain(&target)
                    && (self.left.contains_key(chain.name.as_str()) || is_administrators(name, &chain.name))
                {
                    names.insert(&chain.name);
                }
            }
        }
        if !names.is_empty() {
            let list: Vec<String> = names.into_iter().map(quoted).collect();
            text.push_str(
                "    # Other programs create these after the rules load at boot: a rule that jumps to one is \
                 left out until then.\n",
            );
            let _ = writeln!(text, "    unmanaged_chains: [{}]", list.join(", "));
        }
    }

    /// Matches, targets and options of stated rules that kvmfw does not know.
    pub(super) fn extensions(&self, text: &mut String) {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (family, name, table, chain) in self.chains() {
            for rule in self.stated(family, name, chain) {
                let Some(checked) = check(rule, family, name, chain, &mut Vec::new()) else { continue };
                let undeclared = checked.undeclared.into_iter();
                names.extend(undeclared.filter_map(|one| one.extensions.last().cloned()));
                if let Some((target, _)) = checked.target
                    && !checked.extension
                    && table.chain(&target).is_none()
                {
                    names.insert(target);
                }
            }
        }
        if !names.is_empty() {
            let list: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            text.push_str(
                "    # kvmfw does not know these matches and targets of the host, or an option of them.\n",
            );
            let _ = writeln!(text, "    extensions: [{}]", list.join(", "));
        }
    }

    /// The rules of a chain that are stated.
    fn stated(&self, family: IpFamily, table: &str, chain: &'a SaveChain) -> Vec<&'a str> {
        if !is_builtin(table, &chain.name) {
            let left = self.left.contains_key(chain.name.as_str());
            return own_rules(table, chain).into_iter().filter(|_| !left).collect();
        }
        let stated = |rule| match rule {
            BuiltinRule::Stated(rule) => Some(rule),
            BuiltinRule::Left(..) => None,
        };
        self.rules(family, table, chain).into_iter().filter_map(stated).collect()
    }

    /// `iptables:` and `ip6tables:`.
    pub(super) fn write(&self, text: &mut String) {
        for family in self.observed.rules.keys() {
            let mut tables: BTreeMap<&str, String> = BTreeMap::new();
            let mut left = Vec::new();
            for (_, name, _, chain) in self.chains().into_iter().filter(|(of, ..)| of == family) {
                let body = self.chain(*family, name, chain, &mut left);
                if !body.is_empty() {
                    tables.entry(name).or_default().push_str(&body);
                }
            }
            if !tables.is_empty() {
                let _ = writeln!(text, "    {}:", family.key());
            }
            for (name, chains) in tables {
                let _ = write!(text, "      {name}:\n{chains}");
            }
            if !left.is_empty() {
                comment(4, &format!("Left out of {}, and left alone on the host:", family.key()), text);
            }
            left.iter().for_each(|line| comment(4, &format!("  {line}"), text));
        }
    }

    /// One chain, or why it is left out.
    fn chain(&self, family: IpFamily, table: &str, chain: &'a SaveChain, left: &mut Vec<String>) -> String {
        let name = &chain.name;
        if let Some(why) = self.left.get(name.as_str()) {
            left.push(format!("chain {table}/{name} ({} rules): {why}", chain.rules.len()));
            return String::new();
        }
        let builtin = is_builtin(table, name);
        let stated = self.stated(family, table, chain);
        let mut body = String::new();
        if chain.policy == Some(ChainPolicy::Drop) {
            body.push_str("          policy: DROP\n");
        }
        if builtin {
            let rules = self.rules(family, table, chain);
            for rule in &rules {
                if let BuiltinRule::Left(rule, why) = rule {
                    left.push(format!("rule of {table}/{name}: `{rule}`: {why}"));
                }
            }
            body.push_str(place(&rules));
        }
        if !stated.is_empty() {
            body.push_str("          rules: |\n");
        }
        for rule in &stated {
            let stated = |set: &String| super::sets::stated(self.observed).any(|(name, ..)| name == set);
            if let Some(set) = needed_set(rule).filter(|set| !stated(set)) {
                let _ = writeln!(
                    body,
                    "            # Needs the set {set}, which another program creates: left out at boot until \
                     the set exists."
                );
            }
            let _ = writeln!(body, "            {}", rule.replace('$', "$$"));
        }
        if body.is_empty() {
            let says_nothing = builtin || is_administrators(table, name);
            return if says_nothing { String::new() } else { format!("        {}: {{ }}\n", quoted(name)) };
        }
        let mut text = String::new();
        if !stated.is_empty() {
            comment(8, &self.from(family, table, name, &stated), &mut text);
        }
        let _ = write!(text, "        {}:\n{body}", quoted(name));
        text
    }

    /// Where rules of nobody known come from.
    fn from(&self, family: IpFamily, table: &str, chain: &str, rules: &[&str]) -> String {
        let files = &self.observed.boot_files;
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        let mut loaded = 0;
        for rule in rules {
            let mut places = files.places(family, table, chain, rule).peekable();
            loaded += usize::from(places.peek().is_some());
            paths.extend(places.map(|place| place.path.as_str()));
        }
        let who = "created by hand, or by a program that kvmfw does not know";
        let paths: Vec<&str> = paths.into_iter().collect();
        match (loaded, rules.len()) {
            (0, _) => format!("{who}; no boot file known to kvmfw loads them"),
            (some, all) if some == all => format!("{who}; loaded at boot by {}", paths.join(", ")),
            (some, all) => format!("{who}; {some} of {all} loaded at boot by {}", paths.join(", ")),
        }
    }
}

/// Whether a rule is a hook of ours.
fn enters_ours(rule: &str) -> bool {
    rule.contains(JUMP_COMMENT) || jump(rule).is_some_and(|j| j.target.starts_with(PREFIX))
}

/// The rules of a user chain, less our hooks and, in a chain of the administrator, the RETURN that Docker ends it with.
fn own_rules<'a>(table: &str, chain: &'a SaveChain) -> Vec<&'a str> {
    let mut rules: Vec<&str> =
        chain.rules.iter().map(String::as_str).filter(|rule| !enters_ours(rule)).collect();
    if is_administrators(table, &chain.name) && rules.last() == Some(&"-j RETURN") {
        rules.pop();
    }
    rules
}

/// Where the hook has to stand so that the order stays: behind rules of others, if those come first.
fn place(rules: &[BuiltinRule<'_>]) -> &'static str {
    let stated = |rule: &BuiltinRule<'_>| matches!(rule, BuiltinRule::Stated(_));
    let (Some(first), Some(last)) = (rules.iter().position(stated), rules.iter().rposition(stated)) else {
        return "";
    };
    let between = rules.get(first..last).unwrap_or_default().iter().any(|rule| !stated(rule));
    match (first > 0, between || last + 1 < rules.len()) {
        (false, false) => "",
        (false, true) if !between => "",
        (true, false) => "          jump: last   # unmanaged rules come first, and stay first\n",
        _ => {
            "          # Unmanaged rules are between these: together these come after them, which may change \
             verdicts.\n          jump: last\n"
        }
    }
}

/// The set that a rule asks.
fn needed_set(rule: &str) -> Option<String> {
    let words = tokens(rule).ok()?;
    let set = words.windows(2).find(|pair| is_set_option(&pair[0]))?;
    // It stands in a comment of the file.
    Some(set[1].chars().filter(|c| !c.is_control()).collect())
}

/// Why an inventory cannot state a rule.
fn refused(rule: &str, family: IpFamily, table: &str, chain: &SaveChain) -> Option<String> {
    if rule.is_empty() {
        return Some("a rule that only counts".to_owned());
    }
    if !rule.chars().all(is_harmless) {
        return Some("has invisible characters".to_owned());
    }
    let mut problems = Vec::new();
    check(rule, family, table, chain, &mut problems);
    problems.into_iter().next().map(|problem| problem.message)
}

/// A rule of the host, checked as one of an inventory.
fn check(
    rule: &str,
    family: IpFamily,
    table: &str,
    chain: &SaveChain,
    problems: &mut Vec<Problem>,
) -> Option<CheckedRule> {
    let builtin = is_builtin(table, &chain.name);
    let text = rule.replace('$', "$$");
    let line = TextLine { text: &text, place: Place { file: "host".into(), line: 1, column: 1, length: 1 } };
    match split(&line) {
        Ok(words) => {
            rule::check(&words, RuleContext { family, table, chain: &chain.name, builtin }, problems)
        }
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

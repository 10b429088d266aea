//! `--limit`: which hosts of an inventory are meant.

use super::names;
use super::project::{Host, Project};
use crate::problem::{Problem, did_you_mean};
use std::collections::HashSet;

/// The hosts that a limit means, in the order of the inventory.
///
/// Terms are separated by commas: names, globs, `@group`, ranges `kvm[01-40,42]`; `&term` keeps only
/// what it means, `!term` takes out what it means. Inside a term `a&b` is what both mean and `a&!b`
/// what only the first means.
///
/// Errors: a term that matches nothing, and a limit that leaves nothing.
pub fn select(project: &Project, limit: &str) -> Result<Vec<String>, Problem> {
    let mut chosen: Option<HashSet<usize>> = None;
    let (mut keep, mut drop) = (Vec::new(), Vec::new());
    for term in terms(limit).map(str::trim) {
        match (term.strip_prefix('&'), term.strip_prefix('!')) {
            (Some(rest), _) => keep.push(matching(project, rest)?),
            (_, Some(rest)) => drop.push(matching(project, rest)?),
            _ => chosen.get_or_insert_default().extend(both(project, term)?),
        }
    }
    let mut chosen = chosen.unwrap_or_else(|| (0..project.hosts.len()).collect());
    for term in &keep {
        chosen.retain(|host| term.contains(host));
    }
    for term in &drop {
        chosen.retain(|host| !term.contains(host));
    }
    if chosen.is_empty() {
        return Err(Problem::new(
            "empty-limit",
            format!("host selection: `{}` leaves no host", limit.escape_debug()),
        ));
    }
    let names = project.hosts.iter().enumerate().filter(|(at, _)| chosen.contains(at));
    Ok(names.map(|(_, host)| host.name.clone()).collect())
}

/// What commas separate. Inside of `[ ]` they are of the range, as where many hosts are named in one word.
fn terms(limit: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    limit.split(move |c| {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
}

/// A term of factors: `a`, `a&b`, `a&!b`.
fn both(project: &Project, term: &str) -> Result<HashSet<usize>, Problem> {
    let mut factors = term.split('&').map(str::trim);
    let mut chosen = matching(project, factors.next().unwrap_or_default())?;
    for factor in factors {
        match factor.strip_prefix('!') {
            Some(rest) => {
                let out = matching(project, rest)?;
                chosen.retain(|host| !out.contains(host));
            }
            None => {
                let kept = matching(project, factor)?;
                chosen.retain(|host| kept.contains(host));
            }
        }
    }
    Ok(chosen)
}

fn matching(project: &Project, term: &str) -> Result<HashSet<usize>, Problem> {
    let bad = |why: String, help: Option<String>| Problem {
        help,
        ..Problem::new("bad-limit", format!("host selection: {why}"))
    };
    let shown = term.escape_debug();
    if term.is_empty() {
        return Err(bad("a term is empty".into(), Some("separate terms by one comma".into())));
    }
    let hits = |is: &dyn Fn(&Host) -> bool| -> HashSet<usize> {
        project.hosts.iter().enumerate().filter(|(_, host)| is(host)).map(|(at, _)| at).collect()
    };
    if let Some(group) = term.strip_prefix('@') {
        if group != "all" && !project.groups.contains_key(group) {
            // `all` may have an entry of its own, or none.
            let named = project.groups.keys().map(String::as_str).filter(|name| *name != "all");
            let help = did_you_mean(group, named.chain(["all"]));
            return Err(bad(format!("unknown group `{}`", group.escape_debug()), help));
        }
        let members = hits(&|host| group == "all" || host.lineage.iter().any(|(_, g)| g.name == group));
        if members.is_empty() {
            return Err(bad(format!("group `{group}` has no hosts"), None));
        }
        return Ok(members);
    }
    let patterns = names::expand(term).map_err(|why| bad(why, None))?;
    let found = if term.contains(['*', '?']) {
        let mut set = globset::GlobSetBuilder::new();
        for pattern in &patterns {
            let glob = globset::Glob::new(&pattern.replace('{', "\\{"));
            set.add(glob.map_err(|_| bad(format!("`{shown}` is not a valid glob"), None))?);
        }
        let set = set.build().map_err(|_| bad(format!("`{shown}` is not a valid glob"), None))?;
        hits(&|host| set.is_match(&host.name))
    } else {
        let names: HashSet<&str> = patterns.iter().map(String::as_str).collect();
        hits(&|host| names.contains(host.name.as_str()))
    };
    if found.is_empty() {
        let help = if project.groups.contains_key(term) {
            Some(format!("did you mean the group `@{term}`?"))
        } else {
            did_you_mean(term, project.hosts.iter().map(|host| host.name.as_str()))
        };
        return Err(bad(format!("`{shown}` matches no host"), help));
    }
    Ok(found)
}

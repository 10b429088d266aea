//! DRIFT: what is otherwise on a host than the last apply left it. Nothing is proposed, so the diff
//! reads forwards: `-` as it was applied, `+` as it is now.
//!
//! What counts is what is ours: chains, hooks, policies, files, their live keys, what was declared of
//! bridges, and what has to be there so that all of it boots. Rules of others are no drift.

use super::{
    Change, ChangeAction, ChangeRisk, DiffLine, GenerationManifest, HostPlan, HostVerdict, PlanOptions,
    Refusal, ResourceKind,
};
use super::{bridge, host, lints, refusal, rules, sets, sysctl};
use crate::host_state::Observed;
use crate::problem::{LintCode, Warning};
use crate::resolve::Desired;
use crate::resource::iptables::IpFamily;
use std::collections::BTreeMap;

/// What has changed on a host since its last apply. `desired` only tells which host and inventory.
pub fn drift(desired: &Desired, observed: &Observed, options: &PlanOptions) -> HostPlan {
    let mut plan = HostPlan {
        host: desired.host.clone(),
        generation: observed.state.generation,
        verdict: HostVerdict::Unchanged,
        changes: Vec::new(),
        warnings: host::left_behind(desired, observed).collect(),
        transaction_files: super::TransactionFiles::default(),
        open: observed.state.open.clone(),
        latent_lockout: None,
        guest_outages: vec![],
        impact: vec![],
        jump_depth: 0,
        lints: Default::default(),
    };
    let record = match refusal::read_manifest(observed) {
        Ok(Some(record)) => record,
        Err(refusal) => {
            plan.verdict = HostVerdict::Refused(refusal);
            return plan;
        }
        Ok(None) => {
            without_record(desired, observed, &mut plan);
            return plan;
        }
    };
    let applied = record.clone().restore(desired);
    if let Some(refusal) =
        refusal::managed_by(desired, observed, options).or_else(|| unknowable(&applied, observed))
    {
        plan.verdict = HostVerdict::Refused(refusal);
        return plan;
    }
    let sysctl = sysctl::plan(&applied, observed, &record, false);
    plan.changes.extend(sysctl.changes);
    plan.changes.extend(sysctl.unmanaged.iter().filter_map(|file| replaced(&file.path, &record)));
    plan.warnings.extend(sysctl.warnings.into_iter().filter(|w| w.code == LintCode::SysctlOverridden));
    let rules = IpFamily::ALL.map(|family| rules::plan(family, &applied, observed, &record));
    plan.changes.extend(rules.iter().flat_map(|rules| rules.changes.iter().cloned()));
    plan.changes.extend(sets::plan(&applied, observed, &record, options).changes);
    bridges(&applied, observed, &record, &mut plan);
    plan.changes.extend(super::boot::changes(observed));
    plan.changes.iter_mut().for_each(turn);
    lints::judge_drift(&applied, observed, (&record, options), &rules, &mut plan);
    plan.warnings.sort();
    plan.warnings.dedup();
    if !plan.changes.is_empty() {
        plan.verdict = HostVerdict::Changes;
    }
    plan
}

/// Nothing was applied, as far as the host knows; but rules of ours may be live all the same.
fn without_record(desired: &Desired, observed: &Observed, plan: &mut HostPlan) {
    // Which rules the inventory wants does not matter here.
    let nothing = Desired { rules: BTreeMap::new(), ..desired.clone() };
    super::boot::unrecorded(&nothing, observed, plan);
    for family in IpFamily::ALL {
        plan.changes.extend(rules::plan(family, &nothing, observed, &GenerationManifest::default()).changes);
    }
    plan.changes.iter_mut().for_each(turn);
    if plan.warnings.iter().any(|warning| warning.code == LintCode::Unrecorded) {
        plan.verdict = HostVerdict::Changes;
        return;
    }
    plan.warnings.push(Warning::new(
        LintCode::NotManaged,
        "nothing was ever applied to this host, so there is no drift".to_owned(),
        None,
    ));
}

/// Where the rules of a family cannot be compared, nothing may be said about them.
fn unknowable(applied: &Desired, observed: &Observed) -> Option<Refusal> {
    IpFamily::ALL
        .into_iter()
        .filter_map(|family| refusal::refused_rules(family, applied, observed))
        .find(|refusal| refusal.is_failure() || refusal.reason == "missing-tool")
}

/// One bridge after the other, so that what is wrong with one hides nothing of another.
fn bridges(applied: &Desired, observed: &Observed, record: &GenerationManifest, plan: &mut HostPlan) {
    for (name, bridge) in &applied.bridges {
        let one = Desired { bridges: BTreeMap::from([(name.clone(), bridge.clone())]), ..applied.clone() };
        let mut of_one = record.clone();
        of_one.owned.retain(|owner, _| owner == name);
        let found = bridge::plan(&one, observed, &of_one);
        plan.changes.extend(found.changes);
        if let Some((_, message)) = found.refusal {
            plan.changes.push(Change {
                kind: ResourceKind::Bridge,
                resource: name.clone(),
                action: ChangeAction::Change,
                diff: vec![line('-', message)].into(),
                origin: vec![bridge.origin.clone()],
                risks: Vec::new(),
            });
        }
    }
}

/// A file of ours in whose place somebody else's is.
fn replaced(path: &str, record: &GenerationManifest) -> Option<Change> {
    let file = record.sysctl.values().find(|file| file.path() == path)?;
    let mut lines: Vec<DiffLine> =
        file.entries.iter().map(|entry| line('+', format!("{} = {}", entry.key, entry.value))).collect();
    lines.push(line('-', format!("{path} differs from the applied file")));
    Some(Change {
        kind: ResourceKind::Sysctl,
        resource: file.name.clone(),
        action: ChangeAction::Change,
        diff: lines.into(),
        origin: vec![file.origin.clone()],
        risks: Vec::new(),
    })
}

fn line(sign: char, text: String) -> DiffLine {
    DiffLine { sign, text, origin: None }
}

/// A change that would put things right, as the one that put them wrong.
fn turn(change: &mut Change) {
    change.action = match change.action {
        ChangeAction::Add => ChangeAction::Remove,
        ChangeAction::Remove => ChangeAction::Add,
        ChangeAction::Change => ChangeAction::Change,
    };
    change.risks.retain(|risk| *risk == ChangeRisk::ManagementPath);
    let (mut turned, mut gone, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for line in change.diff.lines.iter().cloned() {
        match line.sign {
            '+' => gone.push(DiffLine { sign: '-', ..line }),
            '-' => new.push(DiffLine { sign: '+', ..line }),
            _ => {
                turned.append(&mut gone);
                turned.append(&mut new);
                turned.push(line);
            }
        }
    }
    turned.append(&mut gone);
    turned.append(&mut new);
    change.diff = turned.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_and_old_before_new() {
        let signs = |text: &str| {
            text.lines().map(|l| line(l.chars().next().unwrap(), l[2..].to_owned())).collect::<Vec<_>>()
        };
        let mut change = Change {
            kind: ResourceKind::Iptables,
            resource: "filter/INPUT".to_owned(),
            action: ChangeAction::Add,
            diff: signs("- a\n- b\n+ c\n  same\n+ d\n- e").into(),
            origin: Vec::new(),
            risks: vec![ChangeRisk::Lockout, ChangeRisk::ManagementPath],
        };
        turn(&mut change);
        assert_eq!(change.diff.text(), "- c\n+ a\n+ b\n  same\n- d\n+ e\n");
        assert_eq!((change.action, change.risks), (ChangeAction::Remove, vec![ChangeRisk::ManagementPath]));
    }
}

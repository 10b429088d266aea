//! Hosts that a rollout has to change.

use crate::engine::outcome::{HostOutcome, HostStatus};
use crate::engine::probe::ProbeTask;
use crate::plan::{HostPlan, HostVerdict, PlanOptions};
use crate::resolve::{Desired, SchedulingConstraints};
use std::sync::Arc;

/// Position of a host among the planned hosts, and of its outcome in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostIndex(pub usize);

/// A host with a plan to carry out.
pub(super) struct HostTask {
    pub index: HostIndex,
    pub desired: Arc<Desired>,
    pub options: PlanOptions,
    pub plan: Box<HostPlan>,
}

impl HostTask {
    /// Jump depth by the inventory and by what probes observed.
    pub(super) fn jump_depth(&self) -> usize {
        self.desired.scheduling.jump_depth.max(self.plan.jump_depth)
    }

    pub(super) fn constraints(&self) -> SchedulingConstraints {
        SchedulingConstraints { jump_depth: self.jump_depth(), ..self.desired.scheduling.clone() }
    }
}

/// A host whose probe has not ended.
pub(super) struct Straggler {
    pub index: HostIndex,
    pub desired: Arc<Desired>,
    pub options: PlanOptions,
    pub probe: ProbeTask,
}

impl Straggler {
    pub(super) fn into_task(self, plan: Box<HostPlan>) -> HostTask {
        let Self { index, desired, options, .. } = self;
        HostTask { index, desired, options, plan }
    }
}

/// The outcome of a host that needs no transaction; `None` if its plan has to be carried out.
pub(super) fn outcome_without_changes(plan: &HostPlan) -> Option<HostOutcome> {
    match &plan.verdict {
        HostVerdict::Changes => None,
        HostVerdict::Unchanged => Some(match &plan.open {
            None => HostOutcome::new(&plan.host, HostStatus::Unchanged),
            Some(id) => HostOutcome::new(&plan.host, HostStatus::Refused)
                .reason("locked")
                .message(format!("transaction {id} is undecided: the current state may be rolled back"))
                .hint(format!("wait for its end, or run `kvmfw status {}`", plan.host)),
        }),
        HostVerdict::Refused(refusal) => {
            let status = if refusal.is_failure() { HostStatus::Failed } else { HostStatus::Refused };
            let outcome =
                HostOutcome::new(&plan.host, status).reason(&refusal.reason).message(&refusal.message);
            Some(HostOutcome { hint: refusal.hint().map(str::to_owned), ..outcome })
        }
    }
}

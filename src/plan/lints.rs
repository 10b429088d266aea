//! What the rules will do to people, said before they do it.

use super::rules::RulesPlan;
use super::{HostPlan, Options, Refusal};
use crate::desired::Desired;
use crate::observe::Observed;

/// Warns, marks risks, and refuses what would cut the host off.
pub(super) fn judge(
    _desired: &Desired,
    _observed: &Observed,
    _rules: &[RulesPlan; 2],
    _options: &Options,
    _plan: &mut HostPlan,
) -> Option<Refusal> {
    None
}

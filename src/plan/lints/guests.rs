//! Guests that go dark.

use super::{View, kind, mark, plain, say, warn};
use crate::netfilter::{Dark, guests_dark};
use crate::plan::forecast::bridge_view;
use crate::plan::{HostPlan, Risk};
use crate::problem::Warning;
use crate::resource::Kind;
use crate::resource::iptables::Family;
use std::collections::BTreeSet;

impl View<'_> {
    /// Bridges whose guests no longer reach each other.
    pub(super) fn guests(&self, plan: &mut HostPlan) {
        let Some(observed) = self.observed else { return };
        let mut bridges: BTreeSet<&str> = observed.links.bridges().map(|l| l.name.as_str()).collect();
        bridges.extend(self.desired.bridges.keys().map(String::as_str));
        for name in bridges {
            let is = bridge_view(self.family, name, Some(observed), None);
            let will_be = bridge_view(self.family, name, Some(observed), Some(self.desired));
            let was = guests_dark(&self.before, &self.around, self.family, &is).is_some();
            let Some(dark) = guests_dark(&self.after, &self.around, self.family, &will_be) else { continue };
            let will = if was { "are" } else { "will be" };
            let message = self.dark_message(name, &dark, will, "is 1");
            plan.warnings.push(warn("guests-dark", message, self.origin_of(&dark.step)));
            if !was {
                let chain = format!("{}/{}", dark.step.table, plain(&dark.step.chain));
                mark(plan, Risk::GuestsDark, |c| {
                    let rules = c.kind == kind(self.family);
                    rules && (c.resource == chain || c.resource == "filter/FORWARD") || c.kind == Kind::Sysctl
                });
            }
        }
    }

    /// The same of the declared bridges and rules alone: whether it happens depends on the host.
    pub(super) fn guests_where_filtered(&self, warnings: &mut Vec<Warning>) {
        for name in self.desired.bridges.keys() {
            let view = bridge_view(self.family, name, None, Some(self.desired));
            if let Some(dark) = guests_dark(&self.after, &self.around, self.family, &view) {
                let message =
                    self.dark_message(name, &dark, "are", "is 1, as it is where br_netfilter was loaded");
                warnings.push(warn("guests-dark", message, self.origin_of(&dark.step)));
            }
        }
    }

    fn dark_message(&self, bridge: &str, dark: &Dark, will: &str, switch: &str) -> String {
        let dropped = dark.dropped.join(", ");
        let which = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        format!(
            "guests on {bridge} {will} unreachable over {which} ({dropped}): bridged frames pass FORWARD because \
             bridge-nf-call-{} {switch}, and {} decides. Cures: module bridge-bypass (no host rule sees bridged frames any \
             more), bridge-accept-each (one accept per bridge) or bridge-accept-physdev (accepts all bridged frames)",
            if self.family == Family::V4 { "iptables" } else { "ip6tables" },
            say(&dark.step),
        )
    }
}

//! Guests that the rules cut off from each other.

use super::{FamilyView, mark, plain, say};
use crate::host_state::HostLink;
use crate::netfilter::{BridgeBlocked, blocked_between_ports};
use crate::plan::{ChangeRisk, HostAfter, HostPlan};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::ResourceKind;
use crate::resource::iptables::IpFamily;

impl FamilyView<'_> {
    /// Bridges whose guests no longer reach each other.
    pub(super) fn guests(&self, plan: &mut HostPlan) {
        if self.observed.is_none() {
            return;
        }
        let at_boot = self.will_be.at_boot();
        for name in self.will_be.bridges() {
            let is = self.was.bridge_view(self.family, &name);
            let was = blocked_between_ports(&self.before, &self.context, self.family, &is).is_some();
            if was && self.drift {
                continue;
            }
            let blocked = |host: &HostAfter<'_>| {
                let bridge = host.bridge_view(self.family, &name);
                blocked_between_ports(&self.after, &self.context, self.family, &bridge)
            };
            let (now, later) = (blocked(self.will_be), blocked(&at_boot));
            let is_at_once = now.is_some();
            let (blocked, host, will) = match (now, later) {
                (Some(blocked), _) if was || self.drift => (blocked, self.will_be, "are"),
                (Some(blocked), _) => (blocked, self.will_be, "will be"),
                (None, Some(blocked)) => (blocked, &at_boot, "will, after the next boot, be"),
                (None, None) => continue,
            };
            let switch = host.switch_words(self.family, &name);
            let message = self.unreachable_message(&name, &blocked, will, &switch);
            let origin = self.origin_of(&blocked.step);
            // What the next boot would do without this plan too is no reason to refuse it.
            let before = self.was.at_boot().bridge_view(self.family, &name);
            let was_at_boot =
                || blocked_between_ports(&self.before, &self.context, self.family, &before).is_some();
            if !was && !self.drift && self.has_guests(&name) && (is_at_once || !was_at_boot()) {
                let place = origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
                plan.guest_outages.push(format!("{}{place}", message.finding));
            }
            plan.warnings.push(Warning::new(LintCode::GuestsUnreachable, message, origin));
            if !was {
                let chain = format!("{}/{}", blocked.step.table, plain(&blocked.step.chain));
                mark(plan, ChangeRisk::GuestsUnreachable, |c| match c.kind {
                    ResourceKind::Sysctl => true,
                    ResourceKind::Bridge => c.resource == name,
                    other => {
                        other == ResourceKind::from(self.family)
                            && (c.resource == chain || c.resource == "filter/FORWARD")
                    }
                });
            }
        }
    }

    /// Whether a guest and something that it can reach are ports of a bridge now.
    fn has_guests(&self, bridge: &str) -> bool {
        let Some(links) = self.observed.map(|observed| &observed.links) else { return false };
        links.ports(bridge).any(HostLink::is_of_guest) && links.ports(bridge).count() > 1
    }

    /// The same of the declared bridges and rules alone: whether it happens depends on the host.
    pub(super) fn guests_where_filtered(&self, warnings: &mut Vec<Warning>) {
        for name in self.desired.bridges.keys() {
            let view = self.will_be.bridge_view(self.family, name);
            if let Some(blocked) = blocked_between_ports(&self.after, &self.context, self.family, &view) {
                let switch = self.will_be.switch_words(self.family, name);
                let switch = format!("{switch} wherever br_netfilter is loaded");
                let message = self.unreachable_message(name, &blocked, "are", &switch);
                warnings.push(Warning::new(
                    LintCode::GuestsUnreachable,
                    message,
                    self.origin_of(&blocked.step),
                ));
            }
        }
    }

    fn unreachable_message(
        &self,
        bridge: &str,
        blocked: &BridgeBlocked,
        will: &str,
        switch: &str,
    ) -> WarningMessage {
        let dropped = blocked.dropped.join(", ");
        let which = match self.family {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
        };
        WarningMessage::new(format!("guests on {bridge} {will} unreachable over {which} ({dropped})"))
            .cause(format!(
                "{} drops bridged frames, which pass FORWARD because {switch}",
                say(&blocked.step)
            ))
            .fix(
                "add the module bridge-bypass (no host rule sees bridged frames), \
                 bridge-accept-each (one accept per bridge) or bridge-accept-physdev \
                 (accepts all bridged frames)",
            )
    }
}

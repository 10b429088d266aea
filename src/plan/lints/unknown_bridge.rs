//! Bridges that another program is to make, and that the host does not have.

use crate::host_state::{HostLink, Observed};
use crate::problem::{LintCode, Warning, WarningMessage, closest};
use crate::resolve::Desired;

/// Rules for such a bridge match nothing, which is easily taken for a firewall that works.
pub(super) fn unknown(desired: &Desired, observed: &Observed, warnings: &mut Vec<Warning>) {
    for bridge in desired.bridges.values().filter(|bridge| !bridge.manage) {
        let name = &bridge.name;
        let link = observed.links.by_name.get(name);
        let found = match link {
            Some(link) if link.is_bridge() => continue,
            Some(_) => format!("{name} is declared as an unmanaged bridge, and is not a bridge on the host"),
            None => {
                format!("unmanaged bridge {name} does not exist on the host, so rules for it match nothing")
            }
        };
        let others = observed.links.bridges().map(|link: &HostLink| link.name.as_str());
        let fix = match closest(name, others) {
            Some(near) => format!("did you mean {near}? Else create {name} first"),
            None if link.is_some() => "correct the name".to_owned(),
            None => format!("correct the name, create {name} first, or let kvmfw manage it"),
        };
        let message = WarningMessage::new(found).fix(fix);
        warnings.push(Warning::new(LintCode::UnknownBridge, message, Some(bridge.origin.clone())));
    }
}

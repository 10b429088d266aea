//! What a host is, and what it will be after a plan, as far as packets are concerned: the one place that says so.
//!
//! What is declared counts before what the plan gives back, and that before what is live. A key, a policy or an
//! attribute that the inventory no longer states is as much a part of a plan as one that it states.

use super::forecast::{TAGGED, global_knob, loads_br_netfilter, own_knob};
use super::{BridgeOwnership, GenerationManifest, sets, sysctl};
use crate::host_state::{LiveValue, Observed};
use crate::netfilter::{BridgeFrame, BridgeSwitches, BridgeView, FramePayload, KnownSets};
use crate::resolve::Desired;
use crate::resource::bridge::DeclaredBridge;
use crate::resource::iptables::IpFamily;
use crate::resource::sysctl::SysctlKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A host at one moment: live, after a plan, or after the next boot.
#[derive(Clone)]
pub struct HostAfter<'a> {
    observed: Option<&'a Observed>,
    desired: Option<&'a Desired>,
    /// Values of the keys that the inventory states, by path: each of many links asks for some.
    declared: Arc<HashMap<&'a str, &'a str>>,
    /// Keys that the plan gives back, by path.
    returned: BTreeMap<String, ReturnedValue>,
    /// What kvmfw has set of bridges so far.
    owned: BTreeMap<String, BridgeOwnership>,
    boot: bool,
}

/// The value of a key that the inventory no longer states; `None` is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ReturnedValue {
    /// As soon as the plan is applied; `None` leaves the live value.
    now: Option<String>,
    /// After the next boot.
    boot: Option<String>,
}

/// Where the value of a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// The inventory states it.
    Declared,
    /// The inventory no longer states it.
    Returned,
    /// The plan does not touch it.
    Live,
}

/// The keys that the inventory states; of two with one path the first counts.
fn declared_keys(desired: &Desired) -> Arc<HashMap<&str, &str>> {
    let mut keys = HashMap::new();
    for entry in desired.sysctl.values().flat_map(|file| &file.entries) {
        keys.entry(entry.key.path()).or_insert(entry.value.trim());
    }
    Arc::new(keys)
}

impl<'a> HostAfter<'a> {
    /// The host as it is.
    pub fn live(observed: &'a Observed) -> Self {
        Self {
            observed: Some(observed),
            desired: None,
            declared: Arc::default(),
            returned: BTreeMap::new(),
            owned: BTreeMap::new(),
            boot: false,
        }
    }

    /// A host that nobody has probed, as far as the inventory states it.
    pub fn offline(desired: &'a Desired) -> Self {
        Self {
            observed: None,
            desired: Some(desired),
            declared: declared_keys(desired),
            returned: BTreeMap::new(),
            owned: BTreeMap::new(),
            boot: false,
        }
    }

    /// The host once the plan is applied. `record` is what the generation that boots wants.
    pub fn planned(desired: &'a Desired, observed: &'a Observed, record: &GenerationManifest) -> Self {
        let returned = sysctl::returned(desired, observed, record).into_iter().map(|(key, value)| {
            let boot = sysctl::stated_by_others(&key, observed, record).or_else(|| kernel_default(&key));
            // What the host had before kvmfw says more about its next boot than a value that the plan takes away.
            let boot = boot.or_else(|| value.clone());
            (key.path().to_owned(), ReturnedValue { now: value, boot })
        });
        Self {
            observed: Some(observed),
            desired: Some(desired),
            declared: declared_keys(desired),
            returned: returned.collect(),
            owned: record.owned.clone(),
            boot: false,
        }
    }

    /// The same host after its next boot.
    pub fn at_boot(&self) -> Self {
        Self { boot: true, ..self.clone() }
    }

    /// The value of a sysctl key, and where it comes from. `None`: it does not exist or cannot be read.
    pub fn key(&self, path: &str) -> Option<(String, ValueSource)> {
        if let Some(stated) = self.stated(path) {
            return Some(stated);
        }
        if link_of(path).is_some_and(|link| self.is_deleted(link)) {
            return None;
        }
        self.written_with_all(path).or_else(|| self.own_key(path))
    }

    /// The value of a key that another one writes: the keys that switch forwarding for all links are one, and writing
    /// another value to it sets that of each link.
    fn written_with_all(&self, path: &str) -> Option<(String, ValueSource)> {
        let of_links = |family| path.starts_with(conf(family)) && path.ends_with("/forwarding");
        let is_written = |family: &IpFamily| forwarding_keys(*family).contains(&path) || of_links(*family);
        let all = forwarding_keys(IpFamily::ALL.into_iter().find(is_written)?);
        let stated = all.iter().filter_map(|key| Some((self.stated(key)?, *key)));
        let ((value, source), key) = stated.min_by_key(|((_, source), _)| *source as u8)?;
        let is_new = self.boot || self.live_key(key).as_deref() != Some(&value);
        (is_new || all.contains(&path)).then_some((value, source))
    }

    /// The value of a key, as far as no other key writes it.
    fn own_key(&self, path: &str) -> Option<(String, ValueSource)> {
        self.stated(path).or_else(|| self.live_key(path).map(|value| (value, ValueSource::Live)))
    }

    /// The value that the plan gives a key.
    fn stated(&self, path: &str) -> Option<(String, ValueSource)> {
        if let Some(value) = self.declared.get(path) {
            return Some(((*value).to_owned(), ValueSource::Declared));
        }
        if let Some(returned) = self.returned.get(path) {
            let value = if self.boot { &returned.boot } else { &returned.now };
            if let Some(value) = value.clone().or_else(|| self.live_key(path)) {
                return Some((value, ValueSource::Returned));
            }
        }
        None
    }

    /// The sets whose members are known: those whose entries the inventory states, and that no rule of the host changes.
    pub fn sets(&self) -> KnownSets {
        let changed = self.observed.map(sets::changed_by_rules).unwrap_or_default();
        if let Some(desired) = self.desired {
            return KnownSets::declared(desired.sets.values().filter(|set| !changed.contains(&set.name)));
        }
        let Some(observed) = self.observed.filter(|observed| !observed.sets.live.is_empty()) else {
            return KnownSets::default();
        };
        let record = observed.state.record.as_deref().and_then(|text| GenerationManifest::parse(text).ok());
        let ours = record.unwrap_or_default().sets;
        let is_ours = |name: &str| ours.get(name).is_some_and(|set| set.entries.is_some());
        let live = observed.sets.live.iter().filter(|(name, _)| is_ours(name) && !changed.contains(*name));
        let known: Vec<_> = live.filter_map(|(name, live)| Some((name, live.shape()?, live))).collect();
        KnownSets::of(known.iter().map(|(name, shape, live)| (*name, shape, live.members.as_deref())))
    }

    /// The value that a key has now.
    pub fn live_key(&self, path: &str) -> Option<String> {
        match self.observed?.sysctl.get(path) {
            Some(LiveValue::Value(value)) => Some(value.trim().to_owned()),
            _ => None,
        }
    }

    /// The names of all bridges.
    pub fn bridges(&self) -> BTreeSet<String> {
        let live = self.observed.into_iter().flat_map(|observed| observed.links.bridges());
        let live = live.map(|link| link.name.clone()).filter(|name| !self.is_deleted(name));
        live.chain(self.desired.into_iter().flat_map(|d| d.bridges.keys().cloned())).collect()
    }

    /// Whether the plan deletes a bridge: kvmfw made it, the inventory no longer states it, and no port stays on it.
    fn is_deleted(&self, name: &str) -> bool {
        let Some(owned) = self.owned.get(name).filter(|owned| owned.created) else { return false };
        self.managed(name).is_none()
            && self.observed.is_some_and(|o| o.links.ports(name).all(|port| owned.ports.contains(&port.name)))
    }

    fn managed(&self, name: &str) -> Option<&'a DeclaredBridge> {
        self.desired?.bridges.get(name).filter(|bridge| bridge.manage)
    }

    /// The ports of a bridge.
    pub fn ports(&self, name: &str) -> Vec<String> {
        let declared = self.desired.and_then(|d| d.bridges.get(name));
        let stated = |port: &String| declared.is_some_and(|bridge| bridge.ports.contains(port));
        let leaves = |port: &String| {
            let added = |owned: &BridgeOwnership| owned.ports.contains(port);
            self.owned.get(name).is_some_and(added) && !stated(port)
        };
        let live = self.observed.into_iter().flat_map(|o| o.links.ports(name)).map(|port| port.name.clone());
        let mut ports: Vec<String> = live.filter(|port| !leaves(port)).collect();
        for port in declared.into_iter().flat_map(|bridge| &bridge.ports) {
            if !ports.contains(port) {
                ports.push(port.clone());
            }
        }
        ports
    }

    /// A bridge as the rules of a family see it.
    pub fn bridge_view(&self, family: IpFamily, name: &str) -> BridgeView {
        let ports = self.ports(name);
        let switches = self.switches(name);
        let plain = BridgeFrame { payload: FramePayload::Ip(family), tagged: false };
        let stated = self.desired.and_then(|d| d.bridges.get(name)).and_then(|bridge| bridge.vlan_filtering);
        let filters = self.attribute(name, "vlan_filtering", stated);
        let untagged = (filters && !switches.tagged).then(|| {
            let vlan = |port: &String| Some((port.clone(), self.untagged(name, port)?));
            ports.iter().filter_map(vlan).collect()
        });
        BridgeView { name: name.to_owned(), ports, nf_call: switches.rules(plain).is_some(), untagged }
    }

    /// The VLAN by which untagged frames come in by a port and leave, where that is known.
    fn untagged(&self, bridge: &str, port: &str) -> Option<u16> {
        let declared = self.desired.and_then(|d| d.bridges.get(bridge));
        let stated = declared.map(DeclaredBridge::vlans_by_port).unwrap_or_default().get(port).cloned();
        let returned = || self.owned.get(bridge)?.vlans.get(port).cloned();
        let live = || self.observed?.links.vlans.as_ref()?.get(port).cloned();
        let vlans = stated.or_else(returned).or_else(live)?;
        let vlan = vlans.pvid()?;
        vlans.0.get(&vlan).is_some_and(|flags| flags.untagged).then_some(vlan)
    }

    /// A switch of a bridge: as stated, else as the plan gives it back, else as it is.
    fn attribute(&self, bridge: &str, attribute: &str, stated: Option<bool>) -> bool {
        let returned = || {
            let owned = self.owned.get(bridge)?;
            // A bridge that kvmfw made and that stays because others use it keeps what it has.
            let goes_back = self.managed(bridge).is_some() || !owned.created;
            owned.attributes.get(attribute).filter(|_| goes_back).map(|before| before != "0")
        };
        let live = || {
            let link = self.observed?.links.by_name.get(bridge)?;
            link.number(attribute).map(|on| on != 0)
        };
        stated.or_else(returned).or_else(live).unwrap_or(false)
    }

    /// A bridge's own switch for the frames of a family.
    pub(super) fn own_switch(&self, name: &str, knob: &str) -> bool {
        let declared = self.desired.and_then(|d| d.bridges.get(name));
        let stated = declared.and_then(|bridge| match knob {
            "nf_call_iptables" => bridge.nf_call_iptables,
            "nf_call_ip6tables" => bridge.nf_call_ip6tables,
            _ => bridge.nf_call_arptables,
        });
        self.attribute(name, knob, stated)
    }

    /// Which frames of a bridge meet rules.
    pub fn switches(&self, name: &str) -> BridgeSwitches {
        let either = |knob: &str, key: &str| self.own_switch(name, knob) || self.for_all_bridges(key);
        BridgeSwitches {
            iptables: either(own_knob(IpFamily::V4), global_knob(IpFamily::V4)),
            ip6tables: either(own_knob(IpFamily::V6), global_knob(IpFamily::V6)),
            arptables: either("nf_call_arptables", "net/bridge/bridge-nf-call-arptables"),
            tagged: self.for_all_bridges(TAGGED),
        }
    }

    /// Whether a switch for all bridges is on. Without br_netfilter none is; a rule that loads it brings it as the
    /// kernel has it at first.
    fn for_all_bridges(&self, path: &str) -> bool {
        let at_first = path != TAGGED;
        match (self.key(path), self.observed) {
            (Some((value, _)), _) => value != "0",
            // Nothing is known of the host: what the kernel has once the module is loaded.
            (None, None) => at_first,
            (None, Some(_)) => at_first && self.desired.is_some_and(loads_br_netfilter),
        }
    }

    /// Which switch brings the frames of a bridge to the rules of a family, in words.
    pub fn switch_words(&self, family: IpFamily, name: &str) -> String {
        let path = global_knob(family);
        let short = path.rsplit('/').next().unwrap_or(path);
        match self.key(path) {
            Some((value, ValueSource::Returned)) if value != "0" => match self.boot {
                true => format!(
                    "{short} is {value} again once br_netfilter is loaded at a boot (no file on the host will set it)"
                ),
                false => {
                    format!("{short} goes back to {value}, as it is no longer in the inventory")
                }
            },
            Some((value, _)) if value != "0" => format!("{short} is {value}"),
            _ if self.own_switch(name, own_knob(family)) => {
                format!("{} of {name} is 1, which is enough though {short} is 0", own_knob(family))
            }
            _ => format!("{short} is 1"),
        }
    }

    /// Whether the host forwards what comes in by a device, and the key that decides. `None`: not known.
    pub fn forwards(&self, family: IpFamily, device: &str) -> Option<(bool, String)> {
        let all = forwarding_keys(family);
        let own = format!("net/ipv4/conf/{device}/forwarding");
        if family == IpFamily::V4
            && let Some((value, source)) = self.stated(&own)
            && !(self.boot && source == ValueSource::Returned)
        {
            return Some((value != "0", own));
        }
        let known = all.iter().filter_map(|path| Some((self.own_key(path)?, *path)));
        let ((value, source), path) = known.min_by_key(|((_, source), _)| *source as u8)?;
        // A key for all links that is written sets that of each link.
        let written =
            source != ValueSource::Live && (self.boot || self.live_key(path) != Some(value.clone()));
        match self.live_key(&own) {
            Some(own_value) if family == IpFamily::V4 && !written => Some((own_value != "0", own)),
            _ => Some((value != "0", path.to_owned())),
        }
    }
}

/// Where the keys of links are.
fn conf(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "net/ipv4/conf/",
        IpFamily::V6 => "net/ipv6/conf/",
    }
}

/// The link that a key is of.
fn link_of(path: &str) -> Option<&str> {
    let parts: Vec<&str> = path.split('/').collect();
    let ["net", "ipv4" | "ipv6", "conf" | "neigh", link, _] = parts[..] else { return None };
    (!matches!(link, "all" | "default")).then_some(link)
}

/// The keys that switch forwarding on for all links; they are one.
pub fn forwarding_keys(family: IpFamily) -> &'static [&'static str] {
    match family {
        IpFamily::V4 => &["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"],
        IpFamily::V6 => &["net/ipv6/conf/all/forwarding"],
    }
}

/// What the kernel has where nothing has set a key.
fn kernel_default(key: &SysctlKey) -> Option<String> {
    let path = key.path();
    if path.starts_with("net/bridge/bridge-nf-call-") {
        return Some("1".to_owned());
    }
    let off = path == TAGGED || IpFamily::ALL.iter().any(|family| forwarding_keys(*family).contains(&path));
    off.then(|| "0".to_owned())
}

//! VLANs of the ports of bridges, from what `bridge -j vlan show` prints.

use super::ObserveError;
use super::links::json;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The VLANs of one port, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortVlans(pub BTreeMap<u16, VlanFlags>);

/// What a port does with the frames of a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanFlags {
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Frames leave without a tag.
    pub untagged: bool,
}

#[derive(Deserialize)]
struct VlanPort {
    ifname: String,
    #[serde(default)]
    vlans: Vec<VlanRange>,
}

#[derive(Deserialize)]
struct VlanRange {
    vlan: u16,
    #[serde(rename = "vlanEnd")]
    end: Option<u16>,
    #[serde(default)]
    flags: Vec<String>,
}

impl PortVlans {
    /// Reads the section: VLANs by port, the bridges' own by their names. `None` where nobody asked.
    pub fn parse(text: &str) -> Result<Option<BTreeMap<String, Self>>, ObserveError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let ports: Vec<VlanPort> = json(text).map_err(ObserveError::Vlans)?;
        let of = |ranges: Vec<VlanRange>| {
            let mut vlans = BTreeMap::new();
            for range in ranges {
                let has = |flag: &str| range.flags.iter().any(|f| f == flag);
                let flags = VlanFlags { pvid: has("PVID"), untagged: has("Egress Untagged") };
                let last = range.end.unwrap_or(range.vlan).min(4094);
                vlans.extend((range.vlan..=last).map(|vid| (vid, flags)));
            }
            Self(vlans)
        };
        Ok(Some(ports.into_iter().map(|port| (port.ifname, of(port.vlans))).collect()))
    }

    /// What a link has that has just become a port: the bridge's default VLAN, untagged; 0 is none.
    pub fn fresh(default: u16) -> Self {
        let flags = VlanFlags { pvid: true, untagged: true };
        Self((default != 0).then_some((default, flags)).into_iter().collect())
    }

    /// The VLAN of untagged frames that come in.
    pub fn pvid(&self) -> Option<u16> {
        self.0.iter().find(|(_, flags)| flags.pvid).map(|(vid, _)| *vid)
    }

    /// Neighbours that are treated alike, as first and last.
    pub fn ranges(&self) -> Vec<(u16, u16, VlanFlags)> {
        let mut ranges: Vec<(u16, u16, VlanFlags)> = Vec::new();
        for (&vid, &flags) in &self.0 {
            match ranges.last_mut() {
                Some((_, last, of)) if *last + 1 == vid && *of == flags && !flags.pvid => *last = vid,
                _ => ranges.push((vid, vid, flags)),
            }
        }
        ranges
    }
}

impl fmt::Display for VlanFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.pvid { " pvid" } else { "" })?;
        f.write_str(if self.untagged { " untagged" } else { "" })
    }
}

/// `1 pvid untagged, 10-19, 30`, or `none`.
impl fmt::Display for PortVlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (number, (first, last, flags)) in self.ranges().into_iter().enumerate() {
            f.write_str(if number == 0 { "" } else { ", " })?;
            write!(f, "{}{flags}", range(first, last))?;
        }
        Ok(())
    }
}

/// `10`, or `10-19`.
pub fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_bridge_prints_them() {
        let text = r#"[{"ifname":"eth1","vlans":[{"vlan":1,"flags":["PVID","Egress Untagged"]},{"vlan":10,"vlanEnd":12},
            {"vlan":13},{"vlan":20,"flags":["Egress Untagged"]}]},{"ifname":"br0","vlans":[]}]"#;
        let all = PortVlans::parse(text).unwrap().unwrap();
        assert_eq!(all["eth1"].to_string(), "1 pvid untagged, 10-13, 20 untagged");
        assert_eq!((all["eth1"].pvid(), all["br0"].to_string()), (Some(1), "none".to_owned()));
        assert_eq!(PortVlans::parse(""), Ok(None));
    }
}

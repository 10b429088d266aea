//! What a file of the host's own says about a port, where ours takes its place at boot: each of its settings goes to our
//! file of the port or of the bridge, or the host is refused with the line. None of them is lost without a word.

use super::BootContext;
use crate::host_state::{FileLine, HostLink, LinkOwner, LinkSetting};
use crate::plan::bridge::RefusalCause;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Begins what was carried over in a file of ours.
const MARK: &str = "\n# Settings of ";

/// Where a setting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingDestination {
    /// It is about the link itself.
    Port,
    /// It is about addresses and routes, which the bridge has from now on.
    Bridge,
    Both,
    /// Our own file says it, or it has no meaning for a port of a bridge.
    Replaced,
    /// It asks for addresses that a port does not have.
    Dropped,
    /// It cannot be kept, for this reason.
    Lost(&'static str),
}

/// One port while its settings are sorted.
pub(super) struct CarriedPort<'a> {
    pub at_boot: &'a BootContext<'a>,
    pub name: &'a str,
    /// The bridge gets its addresses.
    pub moves: bool,
    /// No file of ours stands before it yet.
    pub first: bool,
    pub settings: &'a [LinkSetting],
}

/// The texts that go on in our files, and the lines that do not.
#[derive(Default)]
pub(super) struct CarriedSettings {
    /// By port.
    pub ports: BTreeMap<String, String>,
    pub bridge: String,
    pub dropped: Vec<FileLine>,
    /// Addresses and gateways of the bridge that these texts have, with what belongs to them.
    pub said: Vec<String>,
}

impl CarriedSettings {
    /// Sorts the settings of all ports by `home`; `path` is that of our file for a link.
    pub fn from_ports(
        at_boot: &BootContext<'_>,
        owners: &[(&HostLink, LinkOwner)],
        path: impl Fn(&str) -> String,
        home: impl Fn(&CarriedPort<'_>, &LinkSetting) -> SettingDestination,
    ) -> Result<Self, RefusalCause> {
        let mut carried = Self::default();
        let mut lost = Vec::new();
        for (link, owner) in owners {
            let path = path(&link.name);
            let Some(file) = &owner.file else {
                // Its source is not found while ours is in effect: what ours has of it goes on.
                if let Some(text) = at_boot.before(&path) {
                    carried.ports.insert(link.name.clone(), text.to_owned());
                }
                continue;
            };
            let port = CarriedPort {
                at_boot,
                name: &link.name,
                moves: at_boot.moved_from.contains(&link.name),
                first: !at_boot.files_before.contains_key(&path),
                settings: &owner.settings,
            };
            carried.sort(&port, file, &home, &mut lost);
        }
        if owners.iter().all(|(_, owner)| owner.file.is_none())
            && let Some(text) = at_boot.before(&path(at_boot.name()))
        {
            text.clone_into(&mut carried.bridge);
        }
        if lost.is_empty() { Ok(carried) } else { Err(refused(at_boot.name(), &lost)) }
    }

    fn sort<'a>(
        &mut self,
        port: &CarriedPort<'a>,
        file: &str,
        home: &impl Fn(&CarriedPort<'_>, &LinkSetting) -> SettingDestination,
        lost: &mut Vec<(&'a FileLine, &'static str)>,
    ) {
        let (mut own, mut bridge) = (SectionText::new(file), SectionText::new(file));
        for setting in port.settings {
            match home(port, setting) {
                SettingDestination::Port => own.add(setting),
                SettingDestination::Bridge => bridge.add(setting),
                SettingDestination::Both => {
                    own.add(setting);
                    bridge.add(setting);
                }
                SettingDestination::Replaced => {}
                SettingDestination::Dropped => self.dropped.push(setting.place.clone()),
                SettingDestination::Lost(why) => lost.push((&setting.place, why)),
            }
            if bridge.has(setting) && says(port, setting) {
                let net = setting.value.parse::<ipnet::IpNet>().map(|net| net.to_string());
                self.said.push(net.unwrap_or_else(|_| setting.value.clone()));
            }
        }
        self.ports.insert(port.name.to_owned(), own.text);
        self.bridge.push_str(&bridge.text);
    }

    pub fn port(&self, name: &str) -> &str {
        self.ports.get(name).map_or("", String::as_str)
    }
}

/// Whether a setting that the bridge gets states one of its addresses, or where its default route goes.
fn says(port: &CarriedPort<'_>, setting: &LinkSetting) -> bool {
    match setting.key.as_str() {
        "Address" => true,
        "Gateway" => {
            let mut section = port.settings.iter().filter(|other| other.block == setting.block);
            section.all(|other| other.key != "Destination" && other.key != "Table" || is_any(&other.value))
        }
        _ => false,
    }
}

/// Whether a destination is all of a family.
pub(super) fn is_any(to: &str) -> bool {
    matches!(to, "" | "0.0.0.0/0" | "::/0")
}

/// Sections as they are written anew.
struct SectionText<'a> {
    file: &'a str,
    text: String,
    block: Option<usize>,
}

impl<'a> SectionText<'a> {
    fn new(file: &'a str) -> Self {
        Self { file, text: String::new(), block: None }
    }

    fn add(&mut self, setting: &LinkSetting) {
        if self.text.is_empty() {
            let _ = writeln!(self.text, "{MARK}{}:", self.file);
        }
        if self.block != Some(setting.block) {
            let _ = writeln!(self.text, "\n[{}]", setting.section);
            self.block = Some(setting.block);
        }
        let _ = writeln!(self.text, "{}={}", setting.key, setting.value);
    }

    fn has(&self, setting: &LinkSetting) -> bool {
        self.block == Some(setting.block)
            && self.text.ends_with(&format!("{}={}\n", setting.key, setting.value))
    }
}

impl BootContext<'_> {
    /// What a file of ours carried so far.
    fn before(&self, path: &str) -> Option<&str> {
        let text = self.files_before.get(path)?;
        text.find(MARK).and_then(|at| text.get(at..))
    }
}

fn refused(bridge: &str, lost: &[(&FileLine, &'static str)]) -> RefusalCause {
    let lines: Vec<String> = lost.iter().take(4).map(|(line, why)| format!("{line} ({why})")).collect();
    let more = lost.len().saturating_sub(lines.len());
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    (
        "port-settings-lost",
        format!(
            "bridge {bridge}: the file of kvmfw replaces this one at boot, so these lines would lose their \
             effect: {}{more}; remove them, or move them to the file of another link first",
            lines.join(", ")
        ),
    )
}

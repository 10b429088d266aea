//! IS: what one round trip found out about a host.

mod boot_files;
mod flushes;
mod links;
mod neighbours;
mod network;
mod parse;
mod policy;
mod programs;
mod routes;
mod routing_table;
mod sections;
mod sets;
mod sockets;
mod sysctl_dirs;
mod vlans;

pub use boot_files::{BootFiles, BootLine, RulesLoader, plain as plain_rule};
pub use links::{HostLink, HostLinks, LinkInfo, ObservedAddress};
pub use neighbours::{FixedNeighbour, NextHop};
pub use network::{FileLine, LinkManager, LinkOwner, LinkSetting, NEEDS_PROFILE, NetworkConfig};
pub use parse::{ObserveError, observe};
pub use policy::PolicyRule;
pub use programs::{GuestsByPort, OtherPrograms};
pub use routes::{RouteHop, StaticRoute};
pub use routing_table::{DropKind as RouteRefusal, RouteKind, TableRoute};
pub use sections::ProbeSections;
pub use sets::ObservedSets;
pub use sockets::HostSocket;
pub use sysctl_dirs::{DecidingLine, SysctlDirs, SysctlTool, UnmanagedFile};
pub use vlans::{PortVlans, VlanFlags, range as vlan_range};

use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Everything that was observed on one host.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Facts about the host.
    pub facts: HostFacts,
    /// What an earlier apply left there.
    pub state: ManagedState,
    /// Live values by path below `/proc/sys`.
    pub sysctl: BTreeMap<String, LiveValue>,
    /// Keys that can only be read.
    pub read_only: BTreeSet<String>,
    /// The sysctl.d folders.
    pub sysctl_dirs: SysctlDirs,
    /// Live rules, and how they would be.
    pub rules: BTreeMap<IpFamily, ObservedRules>,
    /// Sets of ipset.
    pub sets: ObservedSets,
    /// Who else filters.
    pub other_filters: OtherFilters,
    /// Links, addresses and routes.
    pub links: HostLinks,
    /// What listens and what is connected, the first thousands of it.
    pub sockets: Vec<HostSocket>,
    /// Sockets of the program behind the tun device that the controller comes by.
    pub tunnel: Vec<HostSocket>,
    /// Who else makes or configures links.
    pub network: NetworkConfig,
    /// What loads rules of others at boot; empty where it was not asked for.
    pub boot_files: BootFiles,
    /// Which guest is behind which port of a bridge; empty where it was not asked for.
    pub guests: GuestsByPort,
    /// What sees packets beside netfilter; empty where it was not asked for.
    pub other_programs: OtherPrograms,
}

/// What kind of host this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Kernel release.
    pub kernel: String,
    /// The host's own name.
    pub hostname: String,
    /// `ID` and `ID_LIKE` of its distribution, word by word.
    pub os: Vec<String>,
    /// Changes with every boot.
    pub boot_id: String,
    /// Processes and threads there are.
    pub threads: Option<u64>,
    /// systemd runs it.
    pub systemd: bool,
    /// There is a place for boot units.
    pub units: bool,
    /// The connection that observed it.
    pub ssh: Option<SshEnds>,
    /// The bridge port behind which the controller is, where that is a guest's.
    pub guest: Option<String>,
    /// Jump hosts that were asked about and are guests of it: by their number, and behind which bridge port.
    pub jump_hosts: Vec<(usize, String)>,
    /// The login can write to /proc/sys.
    pub root: bool,
    /// br_netfilter is there.
    pub br_netfilter: bool,
    /// Tools that are not there.
    pub missing: Vec<String>,
    /// Where systemd-sysctl lies.
    pub systemd_sysctl: Option<String>,
}

/// The two ends of an SSH connection as the host sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshEnds {
    /// Where it comes from.
    pub client: IpAddr,
    /// The port it comes from.
    pub client_port: u16,
    /// Where it goes to.
    pub server: IpAddr,
    /// The port sshd was reached on.
    pub server_port: u16,
}

/// What an earlier apply left on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ManagedState {
    /// The inventory that manages it.
    pub inventory: Option<String>,
    /// The generation that boots; `None` on a host that was never managed.
    pub generation: Option<u32>,
    /// There is the record of an attempt, though no generation came of it.
    pub traces: bool,
    /// A transaction that is open.
    pub open: Option<String>,
    /// What did not load at the last boot, and why; it begins with `bridges: ` where it was no rule.
    pub boot_failed: Option<String>,
    /// Rules of ours that the host could not load at the last boot and leaves out until it can.
    pub boot_left: Vec<SkippedRule>,
    /// When rules of ours were put back that other programs had taken away since the last boot: TIME PROGRAM.
    pub boot_repaired: Vec<String>,
    /// Files without which the generation does not boot, and that are missing or not as they were written.
    pub boot_missing: Vec<String>,
    /// What the current generation wants, as recorded.
    pub record: Option<String>,
    /// sysctl values before we first touched them.
    pub original_sysctl: BTreeMap<String, String>,
    /// Policies before we first touched them, by family, table and chain.
    pub original_policies: BTreeMap<(IpFamily, String, String), String>,
}

/// A rule of ours that is not loaded, because something that it needs is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedRule {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// The table.
    pub table: String,
    /// The chain, with our prefix.
    pub chain: String,
    /// The rule less `-A CHAIN`.
    pub rule: String,
    /// What iptables said.
    pub reason: String,
}

impl SkippedRule {
    /// Reads `PROGRAM TABLE -A CHAIN RULE`, a tab, and the reason.
    pub fn parse(line: &str) -> Option<Self> {
        let (rule, reason) = line.split_once('\t')?;
        let mut words = rule.splitn(5, ' ');
        let family = match words.next()? {
            "iptables" => IpFamily::V4,
            "ip6tables" => IpFamily::V6,
            _ => return None,
        };
        let table = words.next()?.to_owned();
        let chain = words.nth(1)?.to_owned();
        let rule = words.next().unwrap_or("").to_owned();
        Some(Self { family, table, chain, rule, reason: reason.to_owned() })
    }
}

/// A live sysctl value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveValue {
    /// As the kernel prints it.
    Value(String),
    /// The key does not exist, for example because its module is not loaded.
    Absent,
    /// It exists but cannot be read.
    Unreadable,
}

/// The rules of one family.
#[derive(Clone, Debug)]
pub struct ObservedRules {
    /// nft, legacy, old or none.
    pub backend: String,
    /// What the tool calls itself.
    pub version: String,
    /// What is there.
    pub live: SavedTables,
    /// What would be there.
    pub predicted: PredictedRules,
}

/// How the rules would look after an apply, by the host's own iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PredictedRules {
    /// Nothing is wanted and nothing of ours is there, or what is wanted was proven before and is there.
    Same,
    /// The dry run went well and printed this.
    Rules(SavedTables),
    /// The live rules could not be cloned; the reason.
    CannotClone(String),
    /// The host refuses the wanted rules; its words.
    Refused(String),
}

/// Filters beside the rules that iptables-save shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherFilters {
    /// Rules in the backend that is not used, by name of the backend and family.
    pub backend_rules: BTreeMap<String, u32>,
    /// Native nft rules in tables of iptables, which iptables-save shows wrong.
    pub native: Vec<String>,
    /// Programs that load and flush rules of their own: `firewalld`, `ufw`, `nftables FILE`.
    pub managers: Vec<String>,
    /// Base chains of native nft tables.
    pub chains: Vec<String>,
    /// What rules of native nft tables do, `inet filter drop`, `ip other rewrite`: where they drop packets
    /// or rewrite where those go to.
    pub acts: BTreeSet<String>,
    /// Who needs bridged frames in netfilter, or brings them there, and the file that shows it:
    /// `docker-icc`, `docker-proxy`, `kubernetes`, `pve`, `writer`.
    pub evidence: Vec<(String, String)>,
}

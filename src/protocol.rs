//! The names of the sections that hosts answer with. `host/PROTOCOL.md` says what each of them holds, and `tests/fast/protocol.rs`
//! holds names, scripts and page together.

use std::fmt;

/// The name of a section. Only this file makes one, so that a misspelled name cannot pass for a section that is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionName(&'static str);

impl SectionName {
    /// The name as the scripts write it.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The sections about the rules of one family.
#[derive(Clone, Copy, Debug)]
pub struct RuleSections {
    /// Backend and version of the tool.
    pub tool: SectionName,
    /// The live rules.
    pub live: SectionName,
    /// The rules as the dry run left them.
    pub dry: SectionName,
}

/// The sections of iptables.
pub const IPTABLES: RuleSections =
    RuleSections { tool: SectionName("rules4"), live: SectionName("live4"), dry: SectionName("dry4") };
/// The sections of ip6tables.
pub const IP6TABLES: RuleSections =
    RuleSections { tool: SectionName("rules6"), live: SectionName("live6"), dry: SectionName("dry6") };

/// Files without which the generation does not boot: as a whole, and per family what its rules need.
pub const BOOT: [SectionName; 3] = [SectionName("boot"), SectionName("boot4"), SectionName("boot6")];

macro_rules! sections {
    ($($constant:ident = $name:literal: $what:literal,)*) => {
        $(
            #[doc = $what]
            pub const $constant: SectionName = SectionName($name);
        )*
    };
}

sections! {
    BESIDE = "beside": "What sees packets beside netfilter.",
    BOOT_FILES = "boot_files": "What loads unmanaged rules at boot.",
    CHECKS = "checks": "The results of the checks that the host runs itself.",
    CLIENT = "client": "The bridge ports behind which the controller and jump hosts are.",
    CURRENT = "current": "The number of the generation that boots.",
    DRY_SETS = "dry_sets": "Whether the host takes the desired sets.",
    END = "end": "Ends an answer: without it the answer was cut off.",
    EVIDENCE = "evidence": "Which programs need bridged frames in netfilter.",
    GENERATION = "generation": "The record of the generation that boots.",
    GUESTS = "guests": "Which guest is behind which bridge port.",
    HISTORY = "history": "The decided transactions.",
    HOST = "host": "Facts about the host.",
    LINKS = "links": "Links and addresses.",
    LOCK = "lock": "The holder of the host's lock.",
    LOG = "log": "Lines that the LOG target wrote.",
    NETWORK = "network": "Which programs configure links.",
    ORIGINAL = "original": "The baseline: sysctl values and policies.",
    OTHERS = "others": "Filters beside the rules that iptables-save shows.",
    OUTCOME = "outcome": "The state of a transaction.",
    RECORD = "record": "The record of a generation; in the history its number follows.",
    RECOVERED = "recovered": "Whether an abandoned transaction was ended.",
    REFUSED = "refused": "Why the host refuses: a reason, then a message.",
    ROUTES4 = "routes4": "Routes, policy rules and permanent neighbours of IPv4.",
    ROUTES6 = "routes6": "Routes, policy rules and permanent neighbours of IPv6.",
    SETS = "sets": "The live sets.",
    SOCKETS = "sockets": "Listening and connected sockets.",
    STAGED = "staged": "The transaction is staged.",
    STATE = "state": "What an earlier apply left on the host.",
    STATUS = "status": "The answer of `status`.",
    SYSCTL = "sysctl": "Live sysctl values.",
    SYSCTL_D = "sysctl.d": "The sysctl.d files.",
    TARGET = "target": "The generation that an undo goes to.",
    TRANSACTIONS = "transactions": "The transactions whose folder is still on the host.",
    TUNNEL = "tunnel": "Sockets of the tunnel that carries the controller's connection.",
    VLANS = "vlans": "VLANs of bridge ports.",
}

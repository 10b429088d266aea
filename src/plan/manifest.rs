//! What a generation wants, as it is kept on the host: enough to see what is wanted no more, and to
//! go back to it.

use super::adopt::AdoptionPlan;
use crate::inventory::HostStanza;
use crate::resolve::Desired;
use crate::resource::iptables::{DeclaredRules, IpFamily, module_of};
use crate::resource::{bridge::DeclaredBridge, ipset, sysctl};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The resources of one generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationManifest {
    /// The shape of this record.
    pub version: u32,
    /// The inventory that it came from.
    pub inventory: String,
    /// Files of sysctl.d.
    pub sysctl: BTreeMap<String, sysctl::SysctlFile>,
    /// Rules by family.
    pub rules: BTreeMap<IpFamily, DeclaredRules>,
    /// Sets of ipset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sets: BTreeMap<String, ipset::DeclaredSet>,
    /// Sets that were there before kvmfw stated them, as they were; without entries those that stay where they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub original_sets: BTreeMap<String, ipset::DeclaredSet>,
    /// Bridges.
    pub bridges: BTreeMap<String, DeclaredBridge>,
    /// What we added to bridges.
    #[serde(default)]
    pub owned: BTreeMap<String, super::BridgeOwnership>,
    /// What was taken over of others, up to this generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<super::AdoptedRule>,
    /// The same of files of sysctl.d, less `.conf`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub adopted_files: BTreeSet<String>,
    /// What bootstraps asked for, where this came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stanza: Option<HostStanza>,
}

impl GenerationManifest {
    /// The version this kvmfw writes.
    pub const VERSION: u32 = 1;

    /// The record of a desired state.
    pub(super) fn from_desired(
        desired: &Desired,
        owned: &BTreeMap<String, super::BridgeOwnership>,
        adoption: &AdoptionPlan,
        original_sets: &BTreeMap<String, ipset::DeclaredSet>,
    ) -> Self {
        Self {
            version: Self::VERSION,
            inventory: desired.inventory.clone(),
            sysctl: desired.sysctl.clone(),
            rules: desired.rules.clone(),
            sets: desired.sets.clone(),
            original_sets: original_sets.clone(),
            bridges: desired.bridges.clone(),
            owned: owned.clone(),
            adopted: adoption.adopted.clone(),
            adopted_files: adoption.files.clone(),
            stanza: desired.stanza.clone(),
        }
    }

    /// Reads a record that a host kept.
    ///
    /// Errors: it is no record, or one of a newer kvmfw.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut record: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if record.version > Self::VERSION {
            return Err(format!("it was written by a newer kvmfw (record version {})", record.version));
        }
        let rules = record.rules.values_mut().flat_map(|r| r.tables.values_mut());
        for rule in rules.flat_map(|t| t.chains.values_mut()).flat_map(|c| Arc::make_mut(&mut c.rules)) {
            rule.module = module_of(&rule.text);
        }
        Ok(record)
    }

    /// The desired state that goes back to this generation.
    pub fn restore(self, now: &Desired) -> Desired {
        Desired {
            host: now.host.clone(),
            inventory: now.inventory.clone(),
            connection: now.connection.clone(),
            sysctl: self.sysctl,
            rules: self.rules,
            sets: self.sets,
            bridges: self.bridges,
            expectations: now.expectations.clone(),
            checks: now.checks.clone(),
            stanza: self.stanza,
            scheduling: now.scheduling.clone(),
            jump_hosts: now.jump_hosts.clone(),
            // What once was applied is not judged by the levels of today.
            lints: Default::default(),
            warnings: Vec::new(),
        }
    }
}

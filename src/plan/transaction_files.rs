//! What a host gets to carry out a plan: the files below its transaction's folder.

use super::adopt::AdoptionPlan;
use super::bridge::BridgePlan;
use super::rules::RulesPlan;
use super::sets::SetsPlan;
use super::sysctl::SysctlPlan;
use super::{GenerationManifest, PlanOptions};
use crate::host_state::Observed;
use crate::inventory::{CheckFrom, CheckProbe};
use crate::resolve::Desired;
use crate::resource::ipset::DeclaredSet;
use crate::resource::iptables::{IpFamily, managed_text};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

/// Files by path below the transaction's folder, and what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionFiles {
    /// The files; hosts that get the same share it.
    pub files: Vec<(String, Arc<str>)>,
}

/// The plans of all kinds of resources.
pub(super) struct ResourcePlans<'a> {
    pub sysctl: &'a SysctlPlan,
    pub rules: &'a [RulesPlan; 2],
    pub sets: &'a SetsPlan,
    pub bridges: &'a BridgePlan,
    pub adoption: &'a AdoptionPlan,
}

impl TransactionFiles {
    /// The hash of what a host gets: the name of its plan, in JSON and in the host's history.
    pub fn hash(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for (name, text) in &self.files {
            hash.update(format!("{name} {}\n{text}", text.len()));
        }
        hash.finalize().iter().take(8).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    pub(super) fn new(
        desired: &Desired,
        observed: &Observed,
        ResourcePlans { sysctl, rules, sets, bridges, adoption }: ResourcePlans<'_>,
        options: &PlanOptions,
    ) -> Self {
        let mut files = Vec::new();
        let mut put = |name: &str, text: String| files.push((format!("new/{name}"), Arc::from(text)));
        for (digit, (family, plan)) in ["4", "6"].into_iter().zip(IpFamily::ALL.into_iter().zip(rules)) {
            let base = desired.rules.get(&family).map_or_else(String::new, managed_text::render);
            put(&format!("want{digit}"), with_policies(&base, plan));
            // As it stands there in the generation.
            put(&format!("base/want{digit}"), base);
            if let Some(text) = adoption.texts.get(&family) {
                put(&format!("adopt{digit}"), text.clone());
            }
        }
        put("sets", sets.wanted.clone());
        put("sets.once", sets.once.clone());
        put("sets.originals", sets.originals.values().map(DeclaredSet::render).collect());
        put("sysctl.keys", lines(sysctl.keys.iter()));
        put("sysctl.open", lines(sysctl.open.iter()));
        put("sysctl.close", lines(sysctl.close.iter()));
        for file in desired.sysctl.values() {
            put(&format!("sysctl.d/{}.conf", file.name), file.render());
        }
        put("udev.rules", udev_rules(desired, observed));
        let modules: BTreeSet<&str> = rules.iter().flat_map(|r| r.modules.iter().copied()).collect();
        put("modules", lines(modules.iter()));
        put("boot.modules", lines(boot_modules(desired).iter()));
        put("bridges", lines(bridges.forward.iter()));
        put("devices", lines(bridges.devices.iter()));
        put("boot.bridges", lines(bridges.boot.iter()));
        for (folder, texts) in [("net", &bridges.files), ("run", &bridges.window)] {
            for (path, text) in texts {
                // One folder for all: the whole path is the name.
                put(&format!("{folder}/{}", path.trim_start_matches('/').replace('/', "%")), text.clone());
            }
        }
        put("inventory", format!("{}\n", desired.inventory));
        put("checks", checks(desired));
        if !sysctl.adopted.is_empty() {
            put("adopt.files", lines(sysctl.adopted.iter()));
        }
        if let Some(back) = &options.restore {
            put("back", format!("{}\n", back.generation));
        }
        let record = GenerationManifest::from_desired(desired, &bridges.owned, adoption, &sets.originals);
        let record = serde_json::to_string(&record).unwrap_or_default();
        put("desired.json", record);
        if options.purge {
            put("zero", String::new());
        }
        files.push(("pre/bridges".to_owned(), lines(bridges.back.iter()).into()));
        Self { files }
    }
}

fn lines(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    items.fold(String::new(), |mut text, item| {
        let _ = writeln!(text, "{item}");
        text
    })
}

/// Own text with the policies that go back to what they were before us.
fn with_policies(base: &str, plan: &RulesPlan) -> String {
    let mut text = base.to_owned();
    for (table, chain, policy) in &plan.policies_back {
        let line = format!(":{chain} {policy}\n");
        match text.find(&format!("*{table}\n")) {
            Some(at) => text.insert_str(at + table.len() + 2, &line),
            None => {
                let _ = write!(text, "*{table}\n{line}COMMIT\n");
            }
        }
    }
    text
}

/// Modules that the rules need when they are loaded at boot.
fn boot_modules(desired: &Desired) -> BTreeSet<&'static str> {
    let tables = desired.rules.values().flat_map(|r| r.tables.values());
    tables.flat_map(|t| t.chains.values()).flat_map(|c| c.rules.iter()).filter_map(|r| r.module).collect()
}

/// Keys of modules that may be loaded long after sysctl.d was read get their values again the
/// moment the module appears: without this, whatever loads br_netfilter brings its defaults.
fn udev_rules(desired: &Desired, observed: &Observed) -> String {
    let modules: BTreeSet<(&str, &str)> = desired
        .sysctl
        .values()
        .flat_map(|f| &f.entries)
        .filter_map(|e| Some((e.key.module()?, e.key.path().rsplit_once('/')?.0)))
        .collect();
    let mut text = String::new();
    if modules.is_empty() {
        return text;
    }
    let _ = writeln!(text, "{}: values of keys whose module may load late.", crate::resource::sysctl::HEADER);
    for (module, prefix) in modules {
        let run = match &observed.facts.systemd_sysctl {
            Some(path) => format!("{path} --prefix=/{prefix}"),
            None => "/sbin/sysctl -q --system".to_owned(),
        };
        let _ =
            writeln!(text, "ACTION==\"add\", SUBSYSTEM==\"module\", KERNEL==\"{module}\", RUN+=\"{run}\"");
    }
    text
}

/// The checks that the host does itself: number, seconds, kind, what.
fn checks(desired: &Desired) -> String {
    let mut text = String::new();
    for (number, check) in desired.checks.iter().enumerate() {
        if check.from != CheckFrom::Host {
            continue;
        }
        let seconds = check.timeout.as_secs().max(1);
        let what = match &check.probe {
            CheckProbe::Ping(address) => format!("ping {address}"),
            CheckProbe::Tcp(address, port) => format!("tcp {address} {port}"),
            CheckProbe::Command(command) => format!("command {command}"),
        };
        let _ = writeln!(text, "{number} {seconds} {what}");
    }
    text
}

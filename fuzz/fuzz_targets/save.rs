//! What a host prints as iptables-save: read, printed, read again, and analysed.
#![no_main]

use kvmfw::netfilter::{BridgeView, HostContext, Ruleset, blocked_between_ports, shadowed_rules};
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::save::SavedTables;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(save) = SavedTables::parse(text) else { return };
    assert_eq!(SavedTables::parse(&save.render()).as_ref(), Ok(&save));
    let rules = Ruleset::new(&save);
    let bridge = BridgeView {
        name: "br0".into(),
        ports: vec!["vnet0".into(), "vnet1".into()],
        nf_call: true,
        untagged: None,
    };
    for family in IpFamily::ALL {
        let _ = blocked_between_ports(&rules, &HostContext::default(), family, &bridge);
    }
    for (table, chain) in save.managed_chains() {
        let _ = shadowed_rules(&rules, table, &chain.name);
    }
});

//! What a host prints as iptables-save: read, printed, read again, and walked.
#![no_main]

use kvmfw::netfilter::{BridgeView, Ruleset, dead_rules, guests_dark};
use kvmfw::resource::iptables::Family;
use kvmfw::resource::iptables::save::Save;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(save) = Save::parse(text) else { return };
    assert_eq!(Save::parse(&save.render()).as_ref(), Ok(&save));
    let rules = Ruleset::new(&save);
    let bridge = BridgeView { name: "br0".into(), ports: vec!["vnet0".into(), "vnet1".into()], nf_call: true };
    for family in Family::ALL {
        let _ = guests_dark(&rules, family, &bridge);
    }
    for (table, chain) in save.own_chains() {
        let _ = dead_rules(&rules, table, &chain.name);
    }
});

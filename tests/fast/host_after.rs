//! The keys of a host once a plan is applied, where they are not those that the inventory names.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::host_state::{Observed, ProbeSections, observe};
use kvmfw::inventory::{ProjectLocation, load_text};
use kvmfw::plan::{self, GenerationManifest, HostAfter, PlanOptions, ValueSource};
use kvmfw::problem::LintCode;
use kvmfw::resolve::{Desired, compile};

const HOST: &str = "@n host\nhostname=kvm1\nunits=yes\nroot=yes\n\n@n rules4\nbackend=nft\n\n@n rules6\nbackend=nft\n\n@n end\n";

fn observed(sections: &str) -> Observed {
    observe(&ProbeSections::split(&format!("{HOST}\n{sections}"), "n"), "").unwrap()
}

fn desired(all: &str) -> Desired {
    let location = ProjectLocation { home: Some("/home/ops".into()), ..ProjectLocation::default() };
    let project = load_text(&location, "case", &format!("hosts: {{ kvm1: {{ {all} }} }}\n"));
    let project = project.unwrap_or_else(|error| panic!("{:#?}", error.list));
    compile(&project, &["kvm1".to_owned()]).unwrap().remove(0)
}

/// Writing a key that switches forwarding for all links sets that of each link, if it is another value.
#[test]
fn one_forwarding_key_writes_the_others() {
    let desired = desired("sysctl: { 60-x: { net.ipv4.ip_forward: 1 } }");
    let record = GenerationManifest::default();
    for (all, of_link) in [("0", "1"), ("1", "0")] {
        let observed = observed(&format!(
            "@n sysctl\nnet/ipv4/ip_forward:{all}\nnet/ipv4/conf/all/forwarding:{all}\nnet/ipv4/conf/br0/forwarding:0\n"
        ));
        let after = HostAfter::planned(&desired, &observed, &record);
        let value = |path: &str| after.key(path).map(|(value, _)| value);
        assert_eq!(after.key("net/ipv4/conf/all/forwarding"), Some(("1".to_owned(), ValueSource::Declared)));
        assert_eq!(value("net/ipv4/conf/br0/forwarding").as_deref(), Some(of_link), "from {all}");
        assert_eq!(after.at_boot().key("net/ipv4/conf/br0/forwarding").unwrap().0, "1");
        assert_eq!(after.forwards(kvmfw::resource::iptables::IpFamily::V4, "br0").unwrap().0, of_link == "1");
    }
}

/// A bridge takes its keys along.
#[test]
fn a_deleted_bridge_has_no_keys() {
    let observed = observed(
        "@n sysctl\nnet/ipv4/conf/br9/forwarding:0\nnet/ipv4/conf/br0/forwarding:0\n\n@n links\n\
         [{\"ifname\": \"br9\", \"linkinfo\": {\"info_kind\": \"bridge\", \"info_data\": {}}}, \
         {\"ifname\": \"br0\", \"linkinfo\": {\"info_kind\": \"bridge\", \"info_data\": {}}}]\n",
    );
    let record = GenerationManifest::parse(
        "{\"version\":1,\"inventory\":\"case\",\"sysctl\":{},\"rules\":{},\"bridges\":{},\"owned\":{\"br9\":\
         {\"created\":true,\"ports\":[],\"addresses\":{},\"gateways\":[],\"attributes\":{}}}}",
    );
    let record = record.unwrap();
    let (gone, stays) = (
        desired("sysctl: { 60-x: { net.ipv4.ip_forward: 1 } }"),
        desired("bridges: { br9: { stp: false } }"),
    );
    let has_key =
        |desired: &Desired, path: &str| HostAfter::planned(desired, &observed, &record).key(path).is_some();
    assert!(!has_key(&gone, "net/ipv4/conf/br9/forwarding"));
    assert!(has_key(&gone, "net/ipv4/conf/br0/forwarding"));
    assert!(has_key(&stays, "net/ipv4/conf/br9/forwarding"));
}

/// A file of ours that a plan removes is not read any more; one of others with the same content is.
#[test]
fn a_removed_file_overrides_nothing() {
    let desired = desired("sysctl: { 60-x: { net.ipv4.ip_forward: 1 } }");
    let record = "{\"version\":1,\"inventory\":\"case\",\"sysctl\":{\"99-zz\":{\"name\":\"99-zz\",\"entries\":\
        [{\"key\":\"net/ipv4/ip_forward\",\"value\":\"0\",\"origin\":{\"file\":\"old.yaml\",\"line\":1}}],\
        \"origin\":{\"file\":\"old.yaml\",\"line\":1}}},\"rules\":{},\"bridges\":{}}";
    for (header, of_others) in [("# Managed by kvmfw", false), ("# by hand", true)] {
        let observed = observed(&format!(
            "@n sysctl\nnet/ipv4/ip_forward:0\n\n@n state\ninventory=case\ngeneration=1\n\n@n generation\n{record}\n\n\
             @n sysctl.d\n>/etc/sysctl.d/99-zz.conf\n/etc/sysctl.d/99-zz.conf:1:{header}\n\
             /etc/sysctl.d/99-zz.conf:2:net.ipv4.ip_forward = 0\n"
        ));
        let warnings = plan::host(&desired, &observed, &PlanOptions::default()).warnings;
        let overridden = warnings.iter().any(|warning| warning.code == LintCode::SysctlOverridden);
        assert_eq!(overridden, of_others, "{header}: {warnings:#?}");
    }
}

/// A key that is given back, that no file sets and that the kernel's default is not known of, boots as it was before kvmfw.
#[test]
fn a_returned_key_boots_as_it_was_before() {
    let desired = desired("sysctl: { 60-x: { net.ipv4.ip_forward: 1 } }");
    let record = "{\"version\":1,\"inventory\":\"case\",\"sysctl\":{\"60-y\":{\"name\":\"60-y\",\"entries\":\
        [{\"key\":\"net/netfilter/nf_conntrack_tcp_loose\",\"value\":\"0\",\"origin\":{\"file\":\"old.yaml\",\"line\":1}}],\
        \"origin\":{\"file\":\"old.yaml\",\"line\":1}}},\"rules\":{},\"bridges\":{}}";
    let observed = observed(
        "@n sysctl\nnet/netfilter/nf_conntrack_tcp_loose:0\n\n@n original\nnet/netfilter/nf_conntrack_tcp_loose=1\n",
    );
    let after = HostAfter::planned(&desired, &observed, &GenerationManifest::parse(record).unwrap());
    let value =
        |host: &HostAfter<'_>| host.key("net/netfilter/nf_conntrack_tcp_loose").map(|(value, _)| value);
    assert_eq!(value(&after).as_deref(), Some("1"));
    assert_eq!(value(&after.at_boot()).as_deref(), Some("1"));
}

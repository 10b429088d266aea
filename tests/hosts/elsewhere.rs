//! Inventories that come from elsewhere: what ansible-inventory prints, and programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const HOST: &str = "kvm1";

/// In the shape that `ansible-inventory --list` of ansible-core 2.19 gives it.
fn ansible(lab: &Lab) -> String {
    let lab_dir = lab.dir().display();
    format!(
        r#"{{
    "_meta": {{
        "hostvars": {{
            "kvm1": {{
                "ansible_host": "{address}",
                "ansible_ssh_common_args": "-o UserKnownHostsFile={lab_dir}/known_hosts -o ControlMaster=auto",
                "ansible_ssh_private_key_file": "{lab_dir}/id_ed25519",
                "ansible_user": "admin",
                "ansible_become": true,
                "ntp_server": "192.0.2.1",
                "kvmfw": {{
                    "bridges": {{ "br123": {{ "manage": false }} }},
                    "modules": [ "host-firewall", "bridge-accept-each" ],
                    "iptables": {{ "filter": {{ "INPUT": {{ "first": "! -s 10.0.0.0/8 -p tcp --dport 16514 -j DROP" }} }} }}
                }}
            }}
        }}
    }},
    "all": {{ "children": [ "ungrouped", "dc1" ] }},
    "dc1": {{ "children": [ "storage" ] }},
    "storage": {{ "hosts": [ "kvm1" ] }}
}}
"#,
        address = lab.address(HOST)
    )
}

fn program(path: &Path, script: &str) -> String {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn the_output_of_ansible_inventory_is_read() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], "modules: []");
    project.write("fleet.json", &ansible(&lab));
    let file = project.path().join("fleet.json").display().to_string();
    project.kvmfw(&lab, &["apply", "-i", &file, "-l", "@dc1", "-y"]).expect(0);
    let live = lab.host(HOST, &["iptables-save"]).ok();
    assert!(live.contains("-A KVMFW-INPUT ! -s 10.0.0.0/8 -p tcp -m tcp --dport 16514 -j DROP"), "{live}");
    project.kvmfw(&lab, &["plan", "-i", &file, "--detailed-exitcode"]).expect(0);
}

#[test]
fn a_program_is_an_inventory() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], "modules: [host-firewall, bridge-bypass]");
    // Once as our YAML, once as Ansible's JSON; only called as Ansible calls its own.
    let yaml = project.path().join("inventories/lab.yaml");
    let ours = program(
        &project.path().join("fleet"),
        &format!("#!/bin/sh\n[ \"$1\" = --list ] || exit 9\ncat {}\n", yaml.display()),
    );
    let saved = project.path().join("plan.json").display().to_string();
    let flag = "--inventory-program";
    project.kvmfw(&lab, &["plan", flag, &ours, "-o", &saved]).expect(0);
    // The plan alone does not have it run.
    let run = project.kvmfw(&lab, &["apply", &saved, "-y"]).expect(3);
    assert!(run.stderr.contains(&format!("add --inventory-program {ours}")), "{}", run.stderr);
    project.kvmfw(&lab, &["apply", &saved, "-y", flag, &ours]).expect(0);
    project.kvmfw(&lab, &["plan", flag, &ours, "--detailed-exitcode"]).expect(0);
    assert_eq!(fs::read_to_string(lab.disk(HOST, "/etc/kvmfw/inventory")).unwrap().trim(), "fleet");

    project.write("fleet.json", &ansible(&lab));
    let theirs = program(&project.path().join("theirs.py"), "#!/bin/sh\ncat \"${0%/*}/fleet.json\"\n");
    let list = project.kvmfw(&lab, &["inventory", "list", flag, &theirs]).expect(0);
    assert_eq!(list.stdout, "kvm1  all dc1 storage\n".replace("all ", ""), "{}", list.stderr);

    let broken = program(&project.path().join("broken"), "#!/bin/sh\necho 'no cloud today' >&2\nexit 4\n");
    let run = project.kvmfw(&lab, &["plan", flag, &broken]).expect(3);
    assert!(run.stderr.contains("no cloud today"), "{}", run.stderr);
    project.write("bad.json", r#"{"_meta": {"hostvars": {"kvm1": {"ansible_host": "{{ ip }}"}}}}"#);
    let bad = project.path().join("bad.json").display().to_string();
    let run = project.kvmfw(&lab, &["check", "-i", &bad]).expect(3);
    assert!(run.stderr.contains("host `kvm1`: ansible_host is a template"), "{}", run.stderr);
}

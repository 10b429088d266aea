//! Power cuts and reboots of a machine whose disk loses what was not synced. Emulated machines.

use crate::machine::{Kind, Machine, require_night};
use crate::window::{Window, held, only_open, opened};

#[test]
fn power_lost_before_and_after_the_decision() {
    if !require_night() {
        return;
    }
    let mut machine = Machine::boot(Kind::Emulated);
    machine.all(&opened(80));
    machine.kvmfw(&["apply", "-y"], 0);
    before_the_decision(&mut machine, Machine::power_cut);

    // As if it had never been installed.
    machine.sh("dpkg --purge iptables-persistent netfilter-persistent && sync -f /");
    before_the_decision(&mut machine, Machine::reboot);

    machine.all(&held(81));
    let mut window = Window::open(&machine, "600s");
    machine.sh("touch /run/go");
    machine.until(&format!("[ -e /var/lib/kvmfw/txn/{}/decision ]", window.id));
    window.orphan();
    machine.power_cut();
    only_open(&machine, 81, 80);
    machine.all(&opened(81));
    machine.is_as_promised();
}

/// Nobody is there to confirm; the host that comes again has ended it alone.
fn before_the_decision(machine: &mut Machine, down: fn(&mut Machine)) {
    machine.all(&held(81));
    let mut window = Window::open(machine, "600s");
    only_open(machine, 81, 82);
    window.orphan();
    let id = window.id;
    down(machine);
    let done = machine.sh(&format!("cat /var/lib/kvmfw/txn/{id}/done"));
    assert!(done.starts_with("rolled-back: the host was booted before a decision"), "{done}");
    only_open(machine, 80, 81);
    machine.all(&opened(80));
    machine.is_as_promised();
}

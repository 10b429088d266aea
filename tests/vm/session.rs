//! systemd and its logins around the guard. Containers.

use crate::machine::{Kind, Machine, require_machines};
use crate::window::{Window, held, only_open, opened};

/// Where a login's processes are killed with its session, the guard is none of them: it waits for its
/// deadline, and a change that is confirmed is committed.
#[test]
fn the_guard_outlives_the_login_session() {
    if !require_machines() {
        return;
    }
    let machine = Machine::boot(Kind::Container);
    machine.sh("mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nKillUserProcesses=yes\\n' >/etc/systemd/logind.conf.d/kill.conf && systemctl restart systemd-logind");
    // So it is with what only leaves the terminal.
    let left = machine.sh_as("admin", "setsid sleep 4711 >/dev/null 2>&1 </dev/null & echo $!");
    machine.hang_up("admin");
    machine.until(&format!("[ ! -e /proc/{} ]", left.trim()));

    machine.all_as("user: admin, become: sudo", &opened(80));
    machine.kvmfw(&["apply", "-y"], 0);
    machine.is_as_promised();

    machine.all_as("user: admin, become: sudo", &held(81));
    let mut window = Window::open(&machine, "15s");
    let guard = window.guard();
    machine.sh("loginctl terminate-user admin");
    machine.until("! pgrep -u admin");
    window.orphan();
    assert_eq!(window.guard(), guard, "the guard died with the session");
    window.rolls_back_in_time();
    only_open(&machine, 80, 81);
}

/// A timer of systemd would start anew; the guard is a service with a deadline of its own.
#[test]
fn daemon_reload_and_reexec_do_not_move_a_deadline() {
    if !require_machines() {
        return;
    }
    let machine = Machine::boot(Kind::Container);
    machine.all(&held(80));
    let mut window = Window::open(&machine, "15s");
    let (guard, deadline) = (window.guard(), window.file("deadline"));
    for command in ["daemon-reload", "daemon-reexec", "daemon-reload"] {
        machine.sh(&format!("systemctl {command}"));
        assert_eq!(window.guard(), guard, "the guard did not last through a {command}");
        assert_eq!(window.file("deadline"), deadline, "{command}");
    }
    window.orphan();
    window.rolls_back_in_time();
    machine.sh("! iptables-save | grep -e KVMFW");
}

/// kill -9 does not end the guard for good, and it knows where it was.
#[test]
fn systemd_starts_a_killed_guard_again() {
    if !require_machines() {
        return;
    }
    let machine = Machine::boot(Kind::Container);
    machine.all(&held(80));
    let window = Window::open(&machine, "120s");
    let (guard, id) = (window.guard(), &window.id);
    machine.sh(&format!("kill -9 {guard}"));
    let show = format!("systemctl show -p MainPID --value kvmfw-{id}.service");
    machine.until(&format!("pid=$({show}) && [ \"$pid\" != 0 ] && [ \"$pid\" != {guard} ]"));
    window.commit();
    machine.is_as_promised();
    machine.sh("test ! -e /var/lib/kvmfw/open");
}

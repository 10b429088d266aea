//! A wall clock that jumps. An emulated machine: a container's clock is everybody's.

use crate::machine::{Kind, Machine, require_night};
use crate::window::{Window, held, only_open};

/// The guard's deadline counts from the boot: two days forward do not fire it, four days back do not
/// delay it.
#[test]
fn a_clock_jump_neither_fires_nor_delays_the_guard() {
    if !require_night() {
        return;
    }
    let machine = Machine::boot(Kind::Emulated);
    for port in [80, 81] {
        machine.all(&held(port));
        let commits = port == 80;
        let mut window = Window::open(&machine, if commits { "600s" } else { "60s" });
        let (guard, deadline) = (window.guard(), window.file("deadline"));
        for jump in ["2 days", "4 days ago"] {
            machine.sh(&format!("date -s '{jump}'"));
            // Whoever looks at the clock does so now.
            let id = &window.id;
            machine.sh(&format!("echo look 1<>/run/kvmfw/{id}/ctl && systemctl daemon-reload"));
            assert_eq!(window.file("deadline"), deadline, "{jump}");
            assert_eq!(window.guard(), guard, "{jump}");
            machine.sh(&format!("test ! -e /var/lib/kvmfw/txn/{id}/decision"));
        }
        if commits {
            window.commit();
        } else {
            window.orphan();
            window.rolls_back_in_time();
        }
    }
    only_open(&machine, 80, 81);
    machine.all(&crate::window::opened(80));
    machine.is_as_promised();
}

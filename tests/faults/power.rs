//! T14: power cut in every state.

use crate::common::transaction::{ended, held, marked, newest, opened, read, start, wait};
use crate::common::{Backend, Shell, same};
use crate::{HOST, LONG, managed, managed_in, on_host, pending, settled};

fn power_cut_at(mark: &str, lasts: bool) {
    power_cut_in(Shell::Dash, mark, lasts);
}

fn power_cut_in(shell: Shell, mark: &str, lasts: bool) {
    let Some((lab, project)) = managed_in(Backend::Nft, shell) else { return };
    lab.power_cut(HOST);
    lab.boot(HOST);
    settled(&lab, &project);
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&held(81));
    let mut kvmfw = start(&lab, &project, &[]);
    if lasts {
        marked(&lab, HOST, "applied", last.as_ref());
        on_host(&lab, "touch /run/go");
    }
    let folder = marked(&lab, HOST, mark, last.as_ref());
    lab.power_cut(HOST);
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    lab.boot(HOST);
    project.all(&opened(81));
    if lasts {
        assert_eq!(ended(&folder), "committed");
        settled(&lab, &project);
    } else {
        same(&before, &lab.dump(HOST), mark);
        let done = read(&folder, "done");
        assert!(done.is_empty() || !done.starts_with("committed"), "{done}");
        pending(&lab, &project);
        project.apply(&lab, &[]).expect(0);
    }
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(!status.stdout.contains("OPEN") && !status.stdout.contains("locked by"), "{}", status.stdout);
}

#[test]
fn t14_power_cut_when_staged() {
    power_cut_at("generation", false);
}

#[test]
fn t14_power_cut_when_armed() {
    power_cut_at("armed", false);
}

#[test]
fn t14_power_cut_when_the_change_begins() {
    power_cut_at("claim", false);
}

#[test]
fn t14_power_cut_when_applied() {
    power_cut_at("applied", false);
}

#[test]
fn t14_power_cut_when_decided() {
    power_cut_at("decision", true);
}

#[test]
fn t14_power_cut_when_done() {
    power_cut_at("done", true);
}

/// `timeout` of BusyBox leaves a process behind for up to a second. It held the lock that ended the transaction, and the
/// unit that comes next loaded no rules.
#[test]
fn t14_power_cut_with_busybox() {
    power_cut_in(Shell::Busybox, "armed", false);
    power_cut_in(Shell::Busybox, "decision", true);
}

/// All is prepared, and the host waits for its checks: what was prepared goes, and it is not told for ever that
/// it is about to end.
#[test]
fn t14_power_cut_when_all_is_staged() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    lab.power_cut(HOST);
    lab.boot(HOST);
    let before = lab.dump(HOST);
    let check = "test -e /run/go || { touch /run/waits; sleep 60; }";
    project.all(&format!("{}checks: [{{ command: '{check}', timeout: 70s }}]\n", opened(81)));
    let mut kvmfw = start(&lab, &project, &[]);
    wait("the check", LONG, || lab.host(HOST, &["test", "-e", "/run/waits"]).success().then_some(()));
    assert!(on_host(&lab, "ls /etc/kvmfw/generations").contains('2'), "not as it was meant");
    lab.power_cut(HOST);
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    lab.boot(HOST);
    same(&before, &lab.dump(HOST), "all staged");
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("released: the host was booted before it was armed"), "{}", status.stdout);
    project.all(&opened(81));
    project.apply(&lab, &[]).expect(0);
    settled(&lab, &project);
}

/// Every upgrade of kvmfw brings another script, while the units stay as they are. It is written to disk before the
/// change is armed. ext4 would save one that is not; so it is asked of sync what it was told, and what was armed then.
#[test]
fn a_new_script_is_on_disk_before_a_change_is_armed() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    on_host(
        &lab,
        "cp /usr/bin/sync /root/sync.real && cat >/root/sync <<'SYNC' && chmod 755 /root/sync && mount --bind /root/sync /usr/bin/sync
#!/bin/sh
for file; do
\tcase $file in /var/lib/kvmfw/kvmfw.sh) [ -L /var/lib/kvmfw/open ] && echo late || echo early ;; esac
done >>/root/told
exec /root/sync.real \"$@\"
SYNC
echo '# of an older kvmfw' >>/var/lib/kvmfw/kvmfw.sh",
    );
    project.all(&opened(81));
    project.apply(&lab, &[]).expect(0);
    assert!(
        !on_host(&lab, "cat /var/lib/kvmfw/kvmfw.sh").contains("of an older kvmfw"),
        "the new script is there"
    );
    assert_eq!(on_host(&lab, "cat /root/told"), "early\n");
}

//! Pieces of the sh of a transaction (`src/host`: `sysctl.sh`, `persist.sh`, `lib.sh`, `upload.sh`), in every shell that hosts have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::all_shells::in_all_shells;
use kvmfw::host::{AWK_PROGRAMS, KVMFW_SH, Nonce, stage};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// The lines of the file that differ. What is read is this machine's `/proc/sys`.
fn differing(lines: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{lines}#end {}\n", lines.len())).unwrap();
    in_all_shells(&format!(
        "NONCE=x\n{}\n{}\nsysctl_differing '{}'\nprintf '%s' \"$REPLY\"\ncase $- in *f*) echo 'no patterns any more' ;; esac\n",
        include_str!("../../src/host/lib.sh"),
        include_str!("../../src/host/sysctl.sh"),
        file.path().display()
    ))
}

fn now(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap().trim_end().to_owned()
}

const RANGE: &str = "net/ipv4/ip_local_port_range";
const PANIC: &str = "kernel/panic_on_oops";

#[test]
fn only_keys_that_differ_are_listed() {
    let (range, panic) = (now(RANGE), now(PANIC));
    let other = if panic == "0" { "1" } else { "0" };
    assert!(range.contains('\t'), "{range:?}");
    let (low, high) = range.split_once('\t').unwrap();
    let same = format!("{RANGE}={low}  {high} \n{PANIC}={panic}\nnet/not/there=7\n");
    assert_eq!(differing(&same), "");
    assert_eq!(differing(""), "");
    // What is not there leaves the others in their places.
    let lines = format!("net/not/there=7\n{PANIC}={other}\nnet/not/there=8\n{RANGE}={low} 1\n");
    assert_eq!(differing(&lines), format!("{PANIC}={other}\n{RANGE}={low} 1\n"));
    // A value is text to its end: no pattern, no second separator.
    assert_eq!(differing("kernel/core_pattern=|/bin/* a=b %p\n"), "kernel/core_pattern=|/bin/* a=b %p\n");
}

/// An undo names a key with what it was before us, and again with what its generation sets; the last one stays.
#[test]
fn a_key_may_be_named_twice() {
    let panic = now(PANIC);
    let other = if panic == "0" { "1" } else { "0" };
    assert_eq!(differing(&format!("{PANIC}={panic}\n{PANIC}={other}\n")), format!("{PANIC}={other}\n"));
    let apart = format!("{PANIC}={panic}\n{RANGE}={}\n{PANIC}={other}\n", now(RANGE));
    assert_eq!(differing(&apart), format!("{PANIC}={other}\n"));
    // What is between the two may not be there at all.
    let between = format!("{PANIC}={panic}\nnet/not/there=1\n{PANIC}={other}\n{PANIC}={panic}\n");
    assert_eq!(differing(&between), format!("{PANIC}={other}\n"));
}

/// A confirm over entries that were not forgotten proves nothing, so an `ip` that is killed is a failure. A kernel that has
/// no route, or no entry, is not.
#[test]
fn neighbours_that_cannot_be_read_are_a_failure() {
    let told = |ip: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ssh"), "192.0.2.1 50000 192.0.2.2 22\n").unwrap();
        in_all_shells(&format!(
            "NONCE=x\n{}\n{}\nT={}\nip() {{\n{ip}\n}}\nif net_forget_neighbours; then echo forgotten; else echo failed; fi\n",
            include_str!("../../src/host/lib.sh"),
            include_str!("../../src/host/neighbours.sh"),
            folder.path().display()
        ))
    };
    let route = "echo '192.0.2.1 dev eth0 src 192.0.2.2 uid 0'";
    let (show, del) = ("echo '192.0.2.1 lladdr 52:54:00:00:00:01 REACHABLE'", "echo deleted \"$*\"");
    let ip = |route: &str, show: &str| {
        format!("case $* in *'route get'*) {route} ;; *'neigh show'*) {show} ;; *) {del} ;; esac")
    };
    assert_eq!(told(&ip(route, show)), "deleted neigh del 192.0.2.1 dev eth0\nforgotten\n");
    assert_eq!(told(&ip("return 137", show)), "failed\n");
    assert_eq!(told(&ip(route, "return 137")), "failed\n");
    assert_eq!(told(&ip("return 2", show)), "forgotten\n");
    assert_eq!(told(&ip(route, ":")), "forgotten\n");
}

/// Where grep cannot be run, nobody knows what differs, and that is not "nothing".
#[test]
fn a_grep_that_cannot_run_is_not_an_answer() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{PANIC}=7\n#end 23\n")).unwrap();
    let file = file.path().display();
    let told = in_all_shells(&format!(
        "NONCE=x\n{LIB}\n{}\ngrep() {{ return 127; }}\nsysctl_differing '{file}' || echo unknown\n\
         sysctl_write_file '{file}' /dev/null || echo unwritten\nsysctl_print_live {PANIC} || echo unread\n",
        include_str!("../../src/host/sysctl.sh"),
    ));
    assert_eq!(told, "unknown\nunwritten\nunread\n");
}

/// What is gone need not be on disk. A write that was lost is told once, so a sync that failed by anything else counts.
#[test]
fn a_lost_write_is_not_tried_again() {
    let told = |lines: &str| {
        in_all_shells(&format!(
            "NONCE=x\n{LIB}\nsync() {{ printf \"{lines}\" >&2; return 1; }}\nif disk_sync_existing a b; then echo kept; fi\n"
        ))
    };
    const GONE: &str = "sync: error opening a: No such file or directory\\n";
    const BUSYBOX: &str = "sync: can't open b: No such file or directory\\n";
    const LOST: &str = "sync: error syncing b: Input/output error\\n";
    assert_eq!(told(GONE), "kept\n");
    assert_eq!(told(&format!("{GONE}{BUSYBOX}")), "kept\n");
    for lost in ["", LOST, &format!("{GONE}{LOST}"), &format!("{LOST}{GONE}"), "sync: not found\\n"] {
        assert_eq!(told(lost), "", "{lost}");
    }
}

/// A snapshot is of all keys, be they more than a command takes.
#[test]
fn all_keys_are_recorded() {
    let script = format!(
        "NONCE=x\n{LIB}\n{}\nsysctl_print_live \"$(seq 25000 | sed 's,^,net/not/{},')${{NL}}{PANIC}$NL\"\n",
        include_str!("../../src/host/sysctl.sh"),
        "there".repeat(20),
    );
    assert_eq!(in_all_shells(&script), format!("{PANIC}={}\n", now(PANIC)));
}

/// What was there before us is written anew only where there is more of it.
#[test]
fn a_baseline_is_written_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let told = |script: &str| {
        in_all_shells(&format!(
            "NONCE=x\n{LIB}\n{}\nVAR={}\nrm -rf $VAR/original; mkdir -p $VAR/original/new\nmany=$(seq 30)$NL\n{script}\n\
             for f in $VAR/original/new/*; do [ ! -e $f ] || {{ echo ${{f##*/}}; cat $f; }}; done\n",
            include_str!("../../src/host/persist.sh"),
            folder.path().display()
        ))
    };
    let had = |text: &str| format!("text_write $VAR/original/sysctl \"{text}\"");
    assert_eq!(told("persist_baseline_text sysctl \"a=1$NL\""), "sysctl\na=1\n#end 4\n");
    assert_eq!(
        told(&format!(
            "{}; echo old >$VAR/original/new/sysctl; persist_baseline_text sysctl \"a=1$NL\"",
            had("a=1")
        )),
        ""
    );
    assert_eq!(
        told(&format!("{}; persist_baseline_text sysctl \"a=1${{NL}}b=2$NL\"", had("a=1"))),
        "sysctl\na=1\nb=2\n#end 8\n"
    );
    assert_eq!(told(&format!("{}; persist_baseline_text sysctl ''", had(""))), "");
    assert_eq!(told(&format!("{}; persist_baseline_text sysctl \"$many\"", had("$many"))), "");
    // One that cannot be read is not "nothing was kept yet".
    assert_eq!(
        told("echo a=1 >$VAR/original/sysctl; persist_baseline_text sysctl \"a=1$NL\" || echo unread"),
        "unread\n"
    );
}

/// A power cut may leave a file that was made and not synced yet without its content. What was decided is made to last all the
/// same.
#[test]
fn a_baseline_that_a_power_cut_emptied_is_written_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let told = in_all_shells(&format!(
        "NONCE=x\n{LIB}\n{AWK_PROGRAMS}{}{}\nVAR={}\nT=$VAR/t\nrm -rf $VAR/*\nmkdir -p $VAR/original $T/new $T/pre\n\
         text_write $T/new/sysctl.keys kernel/a; text_write $T/pre/sysctl kernel/a=1\n\
         for f in own4 own6 tables4 tables6; do text_write $T/pre/$f ''; done\n\
         for f in sysctl policies; do : >$VAR/original/$f; done\n\
         persist_baseline && cat $VAR/original/sysctl $VAR/original/policies\n",
        include_str!("../../src/host/adopt.sh"),
        include_str!("../../src/host/persist.sh"),
        folder.path().display()
    ));
    assert_eq!(told, "kernel/a=1\n#end 11\n#end 0\n");
}

/// Keys with a value of more than one line, with none, and such as cannot be read.
#[test]
fn odd_keys() {
    let odd = "dev/cdrom/info=x\nnet/ipv6/conf/all/stable_secret=y\nnet/ipv4/route/flush=1\nnet/ipv4=1\n";
    let told = differing(&format!("{odd}{RANGE}=1 2\n"));
    let told = told.strip_prefix("dev/cdrom/info=x\n").unwrap_or(&told);
    assert_eq!(told, format!("{RANGE}=1 2\n"));
}

/// More than the shell reads itself, and more than go into one command.
#[test]
fn many_keys() {
    let panic = now(PANIC);
    let mut lines = String::new();
    for n in 0..450 {
        writeln!(lines, "net/not/there{n}=1\n{PANIC}={panic}").unwrap();
    }
    assert_eq!(differing(&lines), "");
    writeln!(lines, "{RANGE}=1 2").unwrap();
    assert_eq!(differing(&lines), format!("{RANGE}=1 2\n"));
}

/// The script in every shell of a machine that has no room left for files.
fn without_room(script: &str) -> String {
    let script = script.replace("TMPDIR=/dev/shm", "TMPDIR=/root");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let lines = format!(
        "mount -t tmpfs -o size=16k none /root\ncat /dev/zero 2>/dev/null >/root/full\nfor sh in dash bash 'busybox sh'; do $sh {}; done",
        file.path().display()
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &lines]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

const LIB: &str = include_str!("../../src/host/lib.sh");

/// bash keeps a long text for a program in a file. Where there is no room for one, the program gets it all the same,
/// and runs once.
#[test]
fn a_text_for_a_program_needs_no_disk() {
    if !common::require_root() {
        return;
    }
    let feed = |command: &str| {
        format!("NONCE=x\n{LIB}\nfeed \"$(seq 100000)\" {command}\nprintf '%s %s\\n' $? \"$REPLY\"\n")
    };
    assert_eq!(without_room(&feed("tail -n 1")), "0 100000\n".repeat(3));
    assert_eq!(without_room(&feed("sh -c 'cat >/dev/null; echo no >&2; exit 3'")), "3 no\n".repeat(3));
    assert_eq!(in_all_shells(&feed("sed -n 7p")), "0 7\n");
    assert_eq!(in_all_shells(&feed("false")), "1 \n");
}

/// Nor does the way back of a long ruleset.
#[test]
fn a_change_is_found_without_a_disk() {
    if !common::require_root() {
        return;
    }
    let script = format!(
        "NONCE=x\n{LIB}\n{AWK_PROGRAMS}{}\nrules=$(seq 5000 | sed 's/^/-A KVMFW-X -p tcp -m tcp --dport /')\n\
         ipt_change \"*filter$NL:KVMFW-X - [0:0]$NL$rules${{NL}}COMMIT\" '' && printf '%s\\n' \"$REPLY\"\n",
        include_str!("../../src/host/iptables.sh")
    );
    let way = "*filter\n:KVMFW-X - [0:0]\n-X KVMFW-X\nCOMMIT\n";
    assert_eq!(in_all_shells(&script), way);
    assert_eq!(without_room(&script), way.repeat(3));
}

/// The document that brings a run to a host, as it is, but for where the host keeps runs, and for what the run does:
/// it tells what it was given. The nonce is `MARK`.
fn brought(var: &Path) -> String {
    const TELL: &str = "echo \"$* $NONCE $VLANS $SSH_CONNECTION $(cat)\"; cd \"${0%/*}\" && find . -type d | sort && \
                        cksum <units/kvmfw.service && echo \"$(cat new/empty) $(cat new/text)\"\n";
    let nonce = Nonce::fresh().unwrap();
    let files = [("new/empty".to_owned(), "".into()), ("new/text".to_owned(), "$(id)\n'\\x\t`".into())];
    stage(&nonce, "r1", &files, true)
        .replace(KVMFW_SH, TELL)
        .replace("VAR=/var/lib/kvmfw", &format!("VAR={}\nSSH_CONNECTION=ends", var.display()))
        .replace(nonce.as_str(), "MARK")
}

#[test]
fn a_transaction_is_uploaded_to_a_host_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let var = folder.path().join("var");
    let anew = format!("rm -rf {}\n{}", var.display(), brought(&var));
    let unit = Command::new("sh").args(["-c", "cksum <src/host/kvmfw.service"]).output().unwrap();
    let told = format!(
        "stage r1 MARK yes ends \n.\n./new\n./new/base\n./new/net\n./new/run\n./new/sysctl.d\n./pre\n./units\n\
         {} $(id)\n'\\x\t`\n",
        String::from_utf8(unit.stdout).unwrap()
    );
    assert_eq!(in_all_shells(&anew), told);
    // Its folder is there, so it is this host already.
    let twice =
        "\n@MARK refused\nsame-host\nthis run is at this host already, under another name in the inventory\n";
    assert_eq!(in_all_shells(&brought(&var)), twice);
    let nowhere = "\n@MARK refused\nno-space\ncannot make /dev/null/txn/r1\n";
    assert_eq!(in_all_shells(&brought(Path::new("/dev/null"))), nowhere);
}

/// bash keeps so long a document in a file.
#[test]
fn an_upload_without_room_is_refused() {
    if !common::require_root() {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let anew = format!("rm -rf {0}/txn\n{1}", folder.path().display(), brought(folder.path()));
    let long = anew.replace("\n$(id)\n", &format!("\n{}\n$(id)\n", "long ".repeat(20_000)));
    let told = without_room(&long);
    let refused = format!("\n@MARK refused\nno-space\ncannot write to {}/txn/r1\n", folder.path().display());
    let (before, after) = told.split_once(&refused).expect(&told);
    for came in [before, after] {
        assert_eq!(came.matches("stage r1 MARK yes ends").count(), 1, "{came}");
    }
    // Where the run itself is to lie there is none, or there is for all files but the last: each takes a page of four.
    let refused = "\n@MARK refused\nno-space\ncannot write to /root/txn/r1\n";
    let full = brought(Path::new("/root")).replace("TMPDIR=/dev/shm", "TMPDIR=/tmp");
    for before in ["", "rm -f /root/full"] {
        let told = without_room(&format!("rm -rf /root/txn\n{before}\n{full}"));
        assert_eq!(told, refused.repeat(3), "{before}");
    }
}

/// What puts rules of others back that are taken over is whole, or there is no snapshot.
#[test]
fn a_snapshot_that_is_cut_off_is_refused() {
    if !common::require_root() {
        return;
    }
    // The disk is full while that is written, and no more for what comes then.
    let script = format!(
        "NONCE=x\n{LIB}\n{AWK_PROGRAMS}{}{}{}{}{}{}T=/root/t\nmount -o remount,size=96k /root\nrm -rf /root/* && mkdir -p $T/new $T/pre && text_write $T/new/want4 ''\n\
         for f in sysctl.keys modules devices bridges sets sets.once; do text_write $T/new/$f ''; done\n\
         [ \"$ROOM\" = yes ] || cat /dev/zero 2>/dev/null >/root/full\n\
         backend=none\nipt_find_backend() {{ [ $1 = 4 ] || {{ rm -f /root/full; return 1; }}; }}\nipt_save_once() {{ REPLY=\"*filter$NL:OLD -$NL$rules${{NL}}COMMIT\"; }}\n\
         adopt_goal() {{ REPLY=\"*filter$NL!:OLD$NL$(printf '%s\\n' \"$rules\" | sed 's/^/!/')${{NL}}COMMIT\"; }}\n\
         ipt_managed() {{ REPLY=$1; }}\nrules=$(seq 20 | sed 's/^/-A OLD -p tcp -m tcp --dport /')\n\
         txn_snapshot 2>/dev/null && echo \"whole $(grep -c '^+-A OLD ' $T/pre/foreign4)\"\n",
        include_str!("../../src/host/adopt.sh"),
        include_str!("../../src/host/sysctl.sh"),
        include_str!("../../src/host/sysctl_effects.sh"),
        include_str!("../../src/host/network.sh"),
        include_str!("../../src/host/ipset_change.sh"),
        include_str!("../../src/host/change.sh"),
    );
    assert_eq!(without_room(&format!("ROOM=yes\n{script}")), "whole 20\n".repeat(3));
    assert_eq!(without_room(&format!("ROOM=\n{script}")), "");
}

/// A text that was written comes back as it was; one that is missing, cut off anywhere, or that its reader did not read
/// to the end does not come back at all.
#[test]
fn a_text_comes_back_whole_or_not_at_all() {
    let folder = tempfile::TempDir::new().unwrap();
    let d = folder.path().display();
    let script = |body: &str| format!("NONCE=x\n{LIB}\n{}\n", body.replace("$D", &d.to_string()));
    let texts = script(
        "for t in '' a \"a$NL\" \"a$NL$NL\" \"$(seq 19)\" \"$(seq 20)\" \"$(seq 21)\" \"$(seq 2000)\" 'ünïcode'; do\n\
         text_write $D/f \"$t\" && text_read $D/f && [ \"$REPLY\" = \"${t%\"$NL\"}\" ] && echo whole\n\
         for cut in 1 2 3 7 8 9 30 90 3000; do\n\
         head -c -$cut $D/f >$D/g; cmp -s $D/f $D/g || ! text_read $D/g || [ $cut = 1 ] || echo \"cut $cut\"\n\
         head -c $cut $D/f >$D/g; cmp -s $D/f $D/g || ! text_read $D/g || echo \"kept $cut\"\ndone; done",
    );
    assert_eq!(in_all_shells(&texts), "whole\n".repeat(9));
    let unread = script(
        "text_write $D/f \"$(seq 30)\"; : >$D/empty\n\
         for f in none empty .; do REPLY=x; text_read $D/$f || echo \"no $f $REPLY\"; done\n\
         cat() { command cat \"$@\"; return 137; }; text_read $D/f || echo killed\n\
         cat() { command cat \"$@\" | head -c 40; }; text_read $D/f || echo short\n\
         cat() { :; }; text_read $D/f || echo nothing\n\
         for f in f none empty; do text_is_filled $D/$f && echo perhaps; done; text_write $D/f ''; text_is_filled $D/f || echo 'holds nothing'",
    );
    assert_eq!(
        in_all_shells(&unread),
        "no none \nno empty \nno . \nkilled\nshort\nnothing\nperhaps\nperhaps\nperhaps\nholds nothing\n"
    );
    let output = script(
        "for o in '' x '#end' \"x$NL#end\" \"x${NL}y$NL#en\" \"x#end\"; do text_unwrap_output \"$o\" && echo \"<$REPLY>\"; done; :",
    );
    assert_eq!(in_all_shells(&output), "<>\n<x>\n");
}

/// Whoever takes over from a guard that was stopped finds ticks of its timers in the fifo. They say nothing of the process
/// that does the work: neither that it ended, nor how.
#[test]
fn ticks_of_an_earlier_timer_end_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let told = in_all_shells(&format!(
        "NONCE=x\n{}\n{}\n{}\n\
         R={}/$$ ID=r1\nmkdir $R\nmkfifo $R/ctl\nctl=$R/ctl\nexec 8<>$ctl\n\
         echo 'sleep 1.2; [ \"$1\" != good ] || echo \"end $$ 0\" 1<>\"$3\"; [ \"$1\" != slow ] || sleep 30' >$R/kvmfw.sh\n\
         for n in 1 2 3; do echo tick >&8; done\n\
         guard_work good 20; echo \"good $? $REPLY_hung\"\n\
         for n in 1 2 3; do echo tick >&8; done\n\
         guard_work killed 20; echo \"killed $? $REPLY_hung\"\n\
         for n in 1 2 3; do echo tick >&8; done\n\
         guard_work slow 2 2>/dev/null; echo \"slow $? ${{REPLY_hung:+yes}}\"\n",
        include_str!("../../src/host/lib.sh"),
        include_str!("../../src/host/memory.sh"),
        include_str!("../../src/host/guard.sh"),
        folder.path().display()
    ));
    assert_eq!(told, "good 0 \nkilled 1 \nslow 1 yes\n");
}

/// A run that is on record twice, because the process that wrote it was killed and another one wrote it again, is still
/// one run.
#[test]
fn an_undo_of_a_run_that_is_on_record_twice() {
    let folder = tempfile::tempdir().unwrap();
    let told = in_all_shells(&format!(
        "NONCE=x\n{}\n{}\n\
         VAR={dir}/$$/var ETC={dir}/$$/etc\nmkdir -p $VAR $ETC/generations/3 $ETC/generations/4 $ETC/generations/5\n\
         for n in 3 4 5; do echo {{}} >$ETC/generations/$n/desired.json; echo $((n - 1)) >$ETC/generations/$n/before; done\n\
         line=\"now\t4\tr1\tcommitted\troot\tplan\"\nprintf '%s\\n' \"$line\" \"$line\" >$VAR/history\nundo_target r1 '' | grep =\n\
         undo_target '' last | grep =\nln -s generations/5 $ETC/current\nundo_target '' last | grep =\n\
         undo_target '' current | grep =\n",
        include_str!("../../src/host/lib.sh"),
        include_str!("../../src/host/undo_target.sh"),
        dir = folder.path().display()
    ));
    // The last one: of a host without a generation, and of one whose current generation is 5.
    assert_eq!(told, "to=3\nunknown=generation\nto=4\nto=5\n");
}

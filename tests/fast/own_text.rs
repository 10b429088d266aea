//! The way from live rules to own text (`src/host/iptables.sh`), in every shell that hosts have.
//! No root and no iptables: what is to be loaded is text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::all_shells::in_all_shells;

const HOOK: &str = "-m comment --comment \"kvmfw:hook\" -j";

/// The change that `ipt_change` finds, which has to be the same in all shells.
fn change(live: &str, want: &str) -> String {
    let script = format!(
        "NONCE=x\n{}\n{}\nlive=$(cat <<'LIVE'\n{live}\nLIVE\n)\nwant=$(cat <<'WANT'\n{want}\nWANT\n)\nipt_change \"$live\" \"$want\" && [ -z \"$REPLY\" ] || printf '%s\\n' \"$REPLY\"\n",
        include_str!("../../src/host/lib.sh"),
        kvmfw::host::AWK_PROGRAMS.to_owned() + include_str!("../../src/host/iptables.sh"),
    );
    in_all_shells(&script)
}

fn table(lines: &[&str]) -> String {
    format!("*filter\n:INPUT ACCEPT\n{}\nCOMMIT", lines.join("\n"))
}

fn wanted(lines: &[&str]) -> String {
    format!("*filter\n{}\nCOMMIT", lines.join("\n"))
}

#[test]
fn an_unchanged_table_loads_nothing() {
    let live = table(&[":KVMFW-INPUT -", &format!("-A INPUT {HOOK} KVMFW-INPUT"), "-A KVMFW-INPUT -j DROP"]);
    let want = wanted(&[":KVMFW-INPUT -", "^INPUT any KVMFW-INPUT", "-A KVMFW-INPUT -j DROP"]);
    assert_eq!(change(&live, &want), "");
}

#[test]
fn from_nothing_and_to_nothing() {
    let want = wanted(&[":KVMFW-INPUT -", "^INPUT any KVMFW-INPUT", "-A KVMFW-INPUT -j DROP"]);
    let there = format!(
        "*filter\n:KVMFW-INPUT - [0:0]\n-A KVMFW-INPUT -j DROP\n-I INPUT 1 {HOOK} KVMFW-INPUT\nCOMMIT\n"
    );
    assert_eq!(change("", &want), there);
    let live = table(&[":KVMFW-INPUT -", &format!("-A INPUT {HOOK} KVMFW-INPUT"), "-A KVMFW-INPUT -j DROP"]);
    let back =
        format!("*filter\n:KVMFW-INPUT - [0:0]\n-D INPUT {HOOK} KVMFW-INPUT\n-X KVMFW-INPUT\nCOMMIT\n");
    assert_eq!(change(&live, ""), back);
}

/// Rules of others that only speak of ours are not ours.
#[test]
fn quoted_words_are_text() {
    let live = table(&[
        "-A INPUT -j LOG --log-prefix \"a -j KVMFW-INPUT \"",
        "-A INPUT -m comment --comment \"it\\'s \\\" -j KVMFW-OLD\" -j ACCEPT",
    ]);
    assert_eq!(change(&live, ""), "");
}

/// A hook twice, as a boot file loaded twice leaves it, goes back to being there twice.
#[test]
fn a_snapshot_with_a_double_jump_rule_is_in_place() {
    let hook = format!("-A INPUT {HOOK} KVMFW-INPUT");
    let live = table(&[":KVMFW-INPUT -", &hook, &hook]);
    let snapshot = wanted(&[
        ":KVMFW-INPUT -",
        &format!("^INPUT 1 KVMFW-INPUT {HOOK} KVMFW-INPUT"),
        &format!("^INPUT 2 KVMFW-INPUT {HOOK} KVMFW-INPUT"),
    ]);
    assert_eq!(change(&live, &snapshot), "");
    let once = wanted(&[":KVMFW-INPUT -", "^INPUT any KVMFW-INPUT"]);
    let drop = format!("-D INPUT {HOOK} KVMFW-INPUT\n");
    assert_eq!(change(&live, &once), format!("*filter\n{drop}{drop}-I INPUT 1 {HOOK} KVMFW-INPUT\nCOMMIT\n"));
}

/// A jump with conditions is no hook, and comes back with them.
#[test]
fn a_jump_rule_with_conditions() {
    let live = table(&[":KVMFW-INPUT -", "-A INPUT -i eth9 -j KVMFW-INPUT"]);
    let want = wanted(&[":KVMFW-INPUT -", "^INPUT any KVMFW-INPUT"]);
    assert_eq!(
        change(&live, &want),
        format!("*filter\n-D INPUT -i eth9 -j KVMFW-INPUT\n-I INPUT 1 {HOOK} KVMFW-INPUT\nCOMMIT\n")
    );
    let now = table(&[":KVMFW-INPUT -", &format!("-A INPUT {HOOK} KVMFW-INPUT")]);
    let snapshot = wanted(&[":KVMFW-INPUT -", "^INPUT 1 KVMFW-INPUT -i eth9 -j KVMFW-INPUT"]);
    assert_eq!(
        change(&now, &snapshot),
        format!("*filter\n-D INPUT {HOOK} KVMFW-INPUT\n-I INPUT 1 -i eth9 -j KVMFW-INPUT\nCOMMIT\n")
    );
}

/// What a transaction moved goes back to its number; what others moved stays.
#[test]
fn a_moved_jump_rule_goes_back() {
    let hook = format!("-A INPUT {HOOK} KVMFW-INPUT");
    let live = table(&[":KVMFW-INPUT -", &hook, "-A INPUT -s 10.0.0.1/32 -j DROP"]);
    let strict = wanted(&[":KVMFW-INPUT -", &format!("^INPUT =2 KVMFW-INPUT {HOOK} KVMFW-INPUT")]);
    assert_eq!(
        change(&live, &strict),
        format!("*filter\n-D INPUT {HOOK} KVMFW-INPUT\n-I INPUT 2 {HOOK} KVMFW-INPUT\nCOMMIT\n")
    );
    let lenient = wanted(&[":KVMFW-INPUT -", &format!("^INPUT 2 KVMFW-INPUT {HOOK} KVMFW-INPUT")]);
    assert_eq!(change(&live, &lenient), "");
    let first = wanted(&[":KVMFW-INPUT -", "^INPUT first KVMFW-INPUT"]);
    assert_eq!(change(&live, &first), "");
    let last = wanted(&[":KVMFW-INPUT -", "^INPUT last KVMFW-INPUT"]);
    assert_eq!(
        change(&live, &last),
        format!("*filter\n-D INPUT {HOOK} KVMFW-INPUT\n-A INPUT {HOOK} KVMFW-INPUT\nCOMMIT\n")
    );
}

/// A policy that is not wanted stays; one that is, is set.
#[test]
fn policies() {
    assert_eq!(change(&table(&[]), &wanted(&[":INPUT DROP"])), "*filter\n:INPUT DROP [0:0]\nCOMMIT\n");
    assert_eq!(change("*filter\n:INPUT DROP\nCOMMIT", &wanted(&[])), "");
}

/// Rules of others that are taken go by their own text, chains once they are empty; what somebody put there
/// meanwhile is not touched, and keeps a chain.
#[test]
fn adopted_rules_return_to_their_place() {
    let old = "-A INPUT -s 10.0.0.1/32 -j DROP\n-A INPUT -j OLD\n-A INPUT -s 10.0.0.2/32 -j DROP";
    let live = table(&[":OLD -", old, "-A OLD -i lo -j ACCEPT", "-A OLD -i lo -j ACCEPT"]);
    let ours = ":KVMFW-INPUT -\n^INPUT any KVMFW-INPUT\n-A KVMFW-INPUT -j DROP\nCOMMIT";
    let take = "!-A INPUT -j OLD\n!-A OLD -i lo -j ACCEPT\n!-A OLD -i lo -j ACCEPT\n!:OLD";
    let both = format!("*filter\n{ours}\n*filter\n{take}\nCOMMIT");
    assert_eq!(
        change(&live, &both),
        format!(
            "*filter\n:KVMFW-INPUT - [0:0]\n-D INPUT -j OLD\n-D OLD -i lo -j ACCEPT\n-D OLD -i lo -j ACCEPT\n\
             -A KVMFW-INPUT -j DROP\n-I INPUT 1 {HOOK} KVMFW-INPUT\n-X OLD\nCOMMIT\n"
        )
    );
    // Back, with somebody's rules at both ends, and one that stood there gone.
    let now = table(&[
        "-A INPUT -s 10.9.9.9/32 -j DROP",
        "-A INPUT -s 10.0.0.1/32 -j DROP",
        "-A INPUT -s 10.8.8.8/32 -j DROP",
    ]);
    let back = "*filter\n=-A INPUT -s 10.0.0.1/32 -j DROP\n+-A INPUT -j OLD\n=-A INPUT -s 10.0.0.2/32 -j DROP\n+:OLD\n\
                +-A OLD -i lo -j ACCEPT\n+-A OLD -i lo -j ACCEPT\nCOMMIT";
    assert_eq!(
        change(&now, back),
        "*filter\n:OLD - [0:0]\n-I INPUT 3 -j OLD\n-I OLD 1 -i lo -j ACCEPT\n-I OLD 2 -i lo -j ACCEPT\nCOMMIT\n"
    );
    // Nothing of what stood before it is left: it goes before what stood behind it, or where our hook was.
    let hook = format!("-A INPUT {HOOK} KVMFW-INPUT");
    let now = table(&[
        ":KVMFW-INPUT -",
        "-A INPUT -s 10.9.9.9/32 -j DROP",
        &hook,
        "-A INPUT -s 10.0.0.2/32 -j DROP",
    ]);
    let last = "-A INPUT -s 10.0.0.2/32 -j DROP";
    for back in [
        format!("*filter\n+-A INPUT -j OLD\n={last}\nCOMMIT"),
        "*filter\n+-A INPUT -j OLD\nCOMMIT".to_owned(),
    ] {
        assert!(change(&now, &back).contains("\n-I INPUT 2 -j OLD\n"), "{}", change(&now, &back));
    }
    // As it was, nothing is missing.
    assert_eq!(change(&live, back), "");
    // A way back may not fail: what is in use stays.
    let lenient = "*filter\n!-A OLD -i lo -j ACCEPT\n~:OLD\nCOMMIT";
    assert_eq!(change(&live, lenient), "*filter\n-D OLD -i lo -j ACCEPT\nCOMMIT\n");
    let alone = table(&[":OLD -", "-A OLD -i lo -j ACCEPT"]);
    assert_eq!(change(&alone, lenient), "*filter\n-D OLD -i lo -j ACCEPT\n-X OLD\nCOMMIT\n");
}

//! Levels of lints: of an inventory, its groups and hosts, of the command line, and of single rules.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::process::{Command, Output};

/// `kvmfw check` of an inventory with a dead rule; `rule` comes behind that rule, `above` is the line before it.
fn check(lints: &str, group: &str, host: &str, (above, behind): (&str, &str), flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inventories")).unwrap();
    let text = format!(
        "lints: {{ {lints} }}\nhosts:\n  kvm1: {{ lints: {{ {host} }} }}\ngroups:\n  all:\n    lints: {{ {group} }}\n    iptables:\n      filter:\n        \
         KVM:\n          rules: |\n            -j DROP\n            {above}\n            -s 10.0.0.1 -j ACCEPT{behind}\n        FORWARD:\n          rules: |\n            -i br9 -j KVM\n"
    );
    fs::write(folder.path().join("inventories/prod.yaml"), text).unwrap();
    let kvmfw = env!("CARGO_BIN_EXE_kvmfw");
    Command::new(kvmfw).arg("check").args(flags).current_dir(folder.path()).output().unwrap()
}

const NO_COMMENT: (&str, &str) = ("", "");

/// What becomes of the dead rule.
#[track_caller]
fn is(output: &Output, level: &str) {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code().unwrap();
    let finding = "`-s 10.0.0.1 -j ACCEPT` is never reached";
    match level {
        "allow" => assert!(code == 0 && !stdout.contains(finding), "{code}: {stdout}{stderr}"),
        "warn" => assert!(code == 0 && stdout.contains(finding), "{code}: {stdout}{stderr}"),
        _ => {
            let place = "[inventories/prod.yaml:13:1]";
            assert!(
                code == 3 && stderr.contains(finding) && stderr.contains(place),
                "{code}: {stdout}{stderr}"
            );
        }
    }
}

#[test]
fn the_most_specific_level_counts() {
    for (inventory, group, host, flags, level) in [
        ("", "", "", &[][..], "warn"),
        ("dead-rule: deny", "", "", &[], "deny"),
        ("dead-rule: allow", "", "", &[], "allow"),
        ("dead-rule: deny", "dead-rule: warn", "", &[], "warn"),
        ("dead-rule: warn", "dead-rule: allow", "dead-rule: deny", &[], "deny"),
        ("dead-rule: deny", "", "dead-rule: allow", &[], "allow"),
        ("", "", "", &["--deny", "dead-rule"], "deny"),
        ("", "", "", &["--deny", "ipv6-missing,dead-rule"], "deny"),
        ("", "", "", &["--allow", "dead-rule"], "allow"),
        ("", "", "", &["--deny", "warnings"], "deny"),
        ("", "", "dead-rule: deny", &["--allow", "dead-rule"], "allow"),
        ("", "", "dead-rule: allow", &["--deny", "dead-rule"], "deny"),
        // A level is more than none.
        ("", "", "dead-rule: warn, ipv6-missing: warn", &["--deny", "warnings"], "warn"),
        ("", "", "", &["--deny", "warnings", "--allow", "dead-rule,ipv6-missing"], "allow"),
    ] {
        is(&check(inventory, group, host, NO_COMMENT, flags), level);
    }
}

#[test]
fn a_comment_allows_findings_about_its_rule() {
    for (above, behind, level) in [
        ("", "  # kvmfw: allow(dead-rule) until the guest is gone", "allow"),
        ("# kvmfw: allow(dead-rule)", "", "allow"),
        ("", "  # kvmfw: allow(unused-chain, dead-rule) why", "allow"),
        ("", "  # kvmfw: allow(unused-chain) why", "deny"),
        // It is about the rule before it.
        ("-s 10.0.0.2 -j ACCEPT  # kvmfw: allow(dead-rule)", "", "deny"),
        ("", "  # allow(dead-rule)", "deny"),
    ] {
        is(&check("dead-rule: deny", "", "", (above, behind), &[]), level);
    }
}

#[test]
fn unknown_lints_and_levels_are_bad_input() {
    for (lints, behind, flags, words) in [
        ("dead-rul: deny", "", &[][..], "did you mean `dead-rule`?"),
        ("dead-rule: forbid", "", &[], "`forbid` is not a lint level"),
        ("dead-rule: [deny]", "", &[], "expected `allow`, `warn` or `deny`"),
        ("", "  # kvmfw: allow(dead-rul)", &[], "unknown lint `dead-rul`"),
        ("", "  # kvmfw: allow dead-rule", &[], "is not an annotation"),
        ("", "\n            # kvmfw: allow(dead-rule)", &[], "no rule follows"),
        ("", "", &["--deny", "dead-rul"], "did you mean `dead-rule`?"),
        ("", "", &["--allow", "warnings"], "unknown lint"),
        ("", "", &["--deny", "dead-rule", "--allow", "dead-rule"], "contradict"),
    ] {
        let output = check(lints, "", "", ("", behind), flags);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(3) && stderr.contains(words),
            "{lints} {behind} {flags:?}: {stderr}"
        );
    }
    // Two statements of one rank have to agree.
    let twice = check("dead-rule: deny, dead-rule: allow", "", "", NO_COMMENT, &[]);
    assert_eq!(twice.status.code(), Some(3));
}

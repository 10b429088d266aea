//! What runs on hosts: plain sh in files of their own, embedded here as they are, and the documents
//! that carry them there. A document is those files, then data in quoted here-documents, then one
//! call; no shell text is put together from input.

use crate::protocol::{END, OUTCOME, STATUS};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

/// An awk program as the scripts have it: a variable, in single quotes, which is why no program has one of those.
macro_rules! awk {
    ($variable:literal, $file:literal) => {
        concat!($variable, "='", include_str!(concat!("host/awk/", $file)), "'\n")
    };
}

/// The programs of a probe.
macro_rules! awk_of_probe {
    () => {
        concat!(
            awk!("IPT_TARGET_AWK", "ipt_target.awk"),
            awk!("IPT_MANAGED_AWK", "ipt_managed.awk"),
            awk!("IPT_CHANGE_AWK", "ipt_change.awk"),
            awk!("NOTE_PRINT_AWK", "note_print.awk"),
            awk!("PROBE_NFT_AWK", "probe_nft.awk"),
            awk!("PROBE_SETS_AWK", "probe_sets.awk"),
            awk!("PROBE_LIVE_AWK", "probe_live.awk"),
        )
    };
}

/// The programs that a transaction, a boot or an undo needs as well.
macro_rules! awk_of_transaction {
    () => {
        concat!(
            awk!("ADOPT_INVERSE_AWK", "adopt_inverse.awk"),
            awk!("BOOT_MISSING_LINES_AWK", "boot_missing_lines.awk"),
            awk!("BOOT_MISSING_VLANS_AWK", "boot_missing_vlans.awk"),
            awk!("FLOWS_JOIN_AWK", "flows_join.awk"),
            awk!("FLOWS_LIST_OPEN_AWK", "flows_list_open.awk"),
            awk!("IPSET_CHANGE_AWK", "ipset_change.awk"),
            awk!("IPT_CANONICAL_GOAL_AWK", "ipt_canonical_goal.awk"),
            awk!("IPT_KEEP_POLICIES_AWK", "ipt_keep_policies.awk"),
            awk!("IPT_LEAVE_OUT_AWK", "ipt_leave_out.awk"),
            awk!("IPT_LEAVE_OUT_NAMED_AWK", "ipt_leave_out_named.awk"),
            awk!("NET_RESTORE_AWK", "net_restore.awk"),
            awk!("NET_STATE_AWK", "net_state.awk"),
            awk!("PERSIST_BASELINE_AWK", "persist_baseline.awk"),
            awk!("SYSCTL_GENERATION_KEYS_AWK", "sysctl_generation_keys.awk"),
            awk!("SYSCTL_IPV6_AWK", "sysctl_ipv6.awk"),
            awk!("TXN_SNAPSHOT_SETS_AWK", "txn_snapshot_sets.awk"),
            awk!("UNDO_READ_SETS_AWK", "undo_read_sets.awk"),
        )
    };
}

/// All awk programs, for tests that run single scripts.
pub const AWK_PROGRAMS: &str = concat!(awk_of_probe!(), awk_of_transaction!());

const LIB: &str = include_str!("host/lib.sh");
/// The scripts of a probe.
const PROBE: &str = concat!(
    include_str!("host/lib.sh"),
    awk_of_probe!(),
    include_str!("host/iptables.sh"),
    include_str!("host/notes.sh"),
    include_str!("host/unmanaged.sh"),
    include_str!("host/ipset.sh"),
    include_str!("host/probe.sh"),
);
const OVER: &str = include_str!("host/over.sh");
const UPLOAD: &str = concat!(awk!("UPLOAD_UNPACK_AWK", "upload_unpack.awk"), include_str!("host/upload.sh"));
const TARGET: &str = include_str!("host/undo_target.sh");
const HISTORY: &str = include_str!("host/history.sh");
const APPLIED: &str = include_str!("host/generation.sh");
const EXPLAIN: &str = include_str!("host/explain.sh");

/// The whole script that a transaction leaves on its host.
pub const KVMFW_SH: &str = concat!(
    "#!/bin/sh\n",
    include_str!("host/start.sh"),
    include_str!("host/lib.sh"),
    awk_of_probe!(),
    awk_of_transaction!(),
    include_str!("host/iptables.sh"),
    include_str!("host/notes.sh"),
    include_str!("host/unmanaged.sh"),
    include_str!("host/ipset.sh"),
    include_str!("host/probe.sh"),
    include_str!("host/memory.sh"),
    include_str!("host/guard.sh"),
    include_str!("host/files.sh"),
    include_str!("host/adopt.sh"),
    include_str!("host/sysctl.sh"),
    include_str!("host/sysctl_effects.sh"),
    include_str!("host/conntrack.sh"),
    include_str!("host/neighbours.sh"),
    include_str!("host/network.sh"),
    include_str!("host/bridges.sh"),
    include_str!("host/change.sh"),
    include_str!("host/ipset_change.sh"),
    include_str!("host/persist.sh"),
    include_str!("host/boot.sh"),
    include_str!("host/boot_settle.sh"),
    include_str!("host/transaction.sh"),
    include_str!("host/status.sh"),
    include_str!("host/undo.sh"),
    include_str!("host/main.sh"),
);

/// The boot units, the same in every generation.
pub const UNITS: [(&str, &str); 4] = [
    ("kvmfw-early.service", include_str!("host/kvmfw-early.service")),
    ("kvmfw.service", include_str!("host/kvmfw.service")),
    ("kvmfw-bridges.service", include_str!("host/kvmfw-bridges.service")),
    ("kvmfw-settle.service", include_str!("host/kvmfw-settle.service")),
];

/// Marks sections of an answer and ends here-documents; so random that no content can contain it.
#[derive(Clone, Debug)]
pub struct Nonce(String);

impl Nonce {
    /// A fresh nonce from the operating system's random numbers.
    pub fn fresh() -> Result<Self, getrandom::Error> {
        random_hex(12).map(|hex| Self(format!("kvmfw-{hex}")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So many random bytes, in hexadecimal.
pub fn random_hex(bytes: usize) -> Result<String, getrandom::Error> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer)?;
    Ok(buffer.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// Text with a nonce at the end of it; a here-document always ends in a newline.
fn here(out: &mut String, nonce: &Nonce, text: &str) {
    let nonce = nonce.as_str();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "<<'{nonce}'\n{text}{newline}{nonce}\n");
}

/// A text in the form in which the scripts read it back (`text_read` in `lib.sh`): with its length behind it, so that
/// one that was cut off, or that nobody could read, never passes for one that says less.
fn whole(text: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{newline}#end {}\n", text.len() + newline.len())
}

/// The files of a transaction that have that form; the others have one of their own, or a single line.
const WHOLE: [&str; 21] = [
    "new/want4",
    "new/want6",
    "new/base/want4",
    "new/base/want6",
    "new/adopt4",
    "new/adopt6",
    "new/adopt.files",
    "new/back",
    "new/sets",
    "new/sets.once",
    "new/sets.originals",
    "new/modules",
    "new/boot.modules",
    "new/sysctl.keys",
    "new/sysctl.open",
    "new/sysctl.close",
    "new/bridges",
    "new/boot.bridges",
    "new/devices",
    "new/checks",
    "pre/bridges",
];

/// What a plan wants to know beyond the facts: how the wanted rules would look, and live values.
pub struct Question<'a> {
    /// Own text wanted for iptables and ip6tables; empty where nothing is declared.
    pub want: [&'a str; 2],
    /// sysctl keys as paths below `/proc/sys`, one on a line.
    pub keys: &'a str,
    /// The lines that make the wanted sets, without members.
    pub sets: &'a str,
    /// VLANs of ports too, also where no bridge filters by them yet.
    pub vlans: bool,
    /// Jump hosts of the inventory, `NUMBER=ADDRESS` with spaces between: one may be a guest of this host.
    pub jump_hosts: &'a str,
    /// Whether to tell all rules that files of others load at boot, and not only which files those are.
    pub boot_files: bool,
    /// What else decides about packets: qdiscs, IPsec, and settings of each link.
    pub packet_settings: bool,
    /// Which guest is behind which port of a bridge.
    pub guests: bool,
}

/// The document that observes a host and changes nothing.
pub fn probe(nonce: &Nonce, question: &Question<'_>) -> String {
    let explain = if question.packet_settings || question.guests { EXPLAIN } else { "" };
    let mut doc = format!("NONCE='{}'\n{PROBE}{explain}", nonce.as_str());
    ask(&mut doc, nonce, question);
    if question.boot_files {
        doc.push_str("boot_files_asked=yes\n");
    }
    ask_packets(&mut doc, question.packet_settings, question.guests);
    doc.push_str("probe_all </dev/null\n");
    doc
}

/// What else decides about packets, and which guest is behind which port.
fn ask_packets(doc: &mut String, settings: bool, guests: bool) {
    if settings {
        doc.push_str("LINK_KEYS='rp_filter accept_local route_localnet'\n");
    }
    for (_, function) in
        [(guests, "explain_guests"), (settings, "explain_beside")].into_iter().filter(|(asked, _)| *asked)
    {
        let _ = writeln!(doc, "if [ \"$ROOT\" = yes ]; then {function} </dev/null; fi");
    }
}

/// The document that observes a host as to what its own generation wants, and changes nothing. `packet_settings` and
/// `guests` as in [`Question`].
pub fn probe_applied(nonce: &Nonce, packet_settings: bool, guests: bool) -> String {
    let explain = if packet_settings || guests { EXPLAIN } else { "" };
    let mut doc = format!("NONCE='{}'\n{PROBE}{APPLIED}{explain}", nonce.as_str());
    ask_packets(&mut doc, packet_settings, guests);
    doc.push_str("probe_all </dev/null\n");
    doc
}

/// The document that observes a host for `explain`; with `log`, what the kernel logged too.
pub fn explain(nonce: &Nonce, question: &Question<'_>, log: bool) -> String {
    let doc = probe(nonce, question);
    match (log, doc.strip_suffix("probe_all </dev/null\n")) {
        (true, Some(head)) => {
            format!("{head}if [ \"$ROOT\" = yes ]; then explain_log </dev/null; fi\nprobe_all </dev/null\n")
        }
        _ => doc,
    }
}

/// What the script asks the document for.
fn ask(doc: &mut String, nonce: &Nonce, question: &Question<'_>) {
    doc.push_str("DESIRED=document\ndocument_rules() {\n\tcase $1 in\n\t4)\n\t\tshift\n\t\t\"$@\" 3");
    here(doc, nonce, &whole(question.want[0]));
    doc.push_str("\t\t;;\n\t6)\n\t\tshift\n\t\t\"$@\" 3");
    here(doc, nonce, &whole(question.want[1]));
    doc.push_str("\t\t;;\n\tesac\n}\ndocument_keys() {\n\t\"$@\"");
    here(doc, nonce, &whole(question.keys));
    doc.push_str("}\n");
    if !question.sets.is_empty() {
        doc.push_str("SETS=yes\ndocument_sets() {\n\t\"$@\"");
        here(doc, nonce, &whole(question.sets));
        doc.push_str("}\n");
    }
    if question.vlans {
        doc.push_str("VLANS=yes\n");
    }
    if !question.jump_hosts.is_empty() {
        let _ = writeln!(doc, "JUMP_HOSTS='{}'", question.jump_hosts);
    }
}

/// The document that uploads a transaction and stages it: up to, not including, the arming.
///
/// `files` are paths below the transaction's folder; they are ours, never the user's. `vlans` as in [`Question`].
pub fn stage(nonce: &Nonce, id: &str, files: &[(String, Arc<str>)], vlans: bool) -> String {
    let (mark, vlans) = (nonce.as_str(), if vlans { "yes" } else { "" });
    let mut doc =
        format!("NONCE='{mark}' VLANS={vlans}\n{LIB}{UPLOAD}document_files() {{\n\t\"$@\" <<'{mark}'\n");
    let units = UNITS.iter().map(|(name, text)| (format!("units/{name}"), *text));
    let files = files.iter().map(|(name, text)| (name.clone(), &**text));
    for (name, text) in [("kvmfw.sh".to_owned(), KVMFW_SH)].into_iter().chain(units).chain(files) {
        let text: Cow<'_, str> = if WHOLE.contains(&&*name) { whole(text).into() } else { text.into() };
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let _ = write!(doc, "@{mark} {name}\n{text}{newline}");
    }
    let _ = writeln!(doc, "{mark}\n}}\nupload_run {id}");
    doc
}

/// The document that calls a command of a transaction that is already on the host.
pub fn call(nonce: &Nonce, command: &str, id: &str, token: &str) -> String {
    format!(
        "NONCE='{}' TOKEN='{token}'\nexport NONCE TOKEN\nif [ -e /var/lib/kvmfw/txn/{id}/kvmfw.sh ]; then \
         exec sh /var/lib/kvmfw/txn/{id}/kvmfw.sh {command} {id} </dev/null\nelse \
         printf '\\n@%s {OUTCOME}\\nstate=none\\n\\n@%s {END}\\n' \"$NONCE\" \"$NONCE\"\nfi\n",
        nonce.as_str()
    )
}

/// The document that asks for every transaction of a host, or releases one.
pub fn console(nonce: &Nonce, command: &str, reason: &str) -> String {
    // Without a program, which may fail: no reason means that nobody at a controller asked.
    let mut doc = format!("NONCE='{}'\nIFS= read -r REASON ", nonce.as_str());
    here(&mut doc, nonce, reason);
    let _ = write!(
        doc,
        "export NONCE REASON\n# Before its first transaction is staged, a host has the script only in the folder of that one.\n\
         for script in /var/lib/kvmfw/kvmfw.sh /var/lib/kvmfw/txn/*/kvmfw.sh; do\n\
         if [ -e \"$script\" ]; then exec sh \"$script\" {command} </dev/null; fi\ndone\n\
         printf '\\n@%s {STATUS}\\n\\n@%s {END}\\n' \"$NONCE\" \"$NONCE\"\n"
    );
    doc
}

/// The document that asks what came of every transaction, and for the record of each generation.
pub fn history(nonce: &Nonce) -> String {
    format!("NONCE='{}'\n{LIB}{HISTORY}history_print </dev/null\n", nonce.as_str())
}

/// A document that prints line `mark`, behind an empty one, as the last thing it does.
pub fn ending_with(mark: &str, document: &str) -> String {
    format!("OVER='{mark}'\n{OVER}{document}")
}

/// The document that asks which generation an undo goes to: the one before a run's, by number, or with `last` the one
/// before the current.
pub fn target(nonce: &Nonce, run: &str, to: &str) -> String {
    format!("NONCE='{}'\n{LIB}{TARGET}undo_target '{run}' '{to}' </dev/null\n", nonce.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_cannot_end_its_here_document() {
        let nonce = Nonce::fresh().unwrap();
        let doc = stage(&nonce, "t1", &[("new/want4".into(), "'; reboot #\n$(reboot)\nEOF\n".into())], false);
        assert_eq!(doc.matches(&format!("<<'{}'", nonce.as_str())).count(), 1);
        assert_eq!(doc.lines().filter(|line| *line == nonce.as_str()).count(), 1);
        assert!(doc.contains(&format!("\n@{} new/want4\n'; reboot #\n$(reboot)\nEOF\n", nonce.as_str())));
    }
}

//! The rooms of the source: who may know whom, and which of them do no I/O. A room that needs a
//! new door gets it here, where it is seen.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room and the rooms it may name. `cli` may name all of them.
const DOORS: [(&str, &[&str]); 22] = [
    ("characters", &[]),
    ("files", &[]),
    ("interner", &[]),
    ("problem", &["characters"]),
    ("protocol", &[]),
    ("yaml", &["problem", "characters"]),
    ("resource", &["problem", "characters"]),
    ("expectation", &["resource", "problem"]),
    ("inventory", &["expectation", "resource", "yaml", "problem", "characters"]),
    (
        "resolve",
        &["inventory", "expectation", "jump_hosts", "resource", "yaml", "interner", "problem", "characters"],
    ),
    ("host_state", &["protocol", "resource", "problem", "characters"]),
    ("jump_hosts", &["host_state", "problem"]),
    ("netfilter", &["resource", "problem", "characters"]),
    ("impact", &["netfilter", "resource", "problem"]),
    (
        "plan",
        &[
            "impact",
            "resolve",
            "inventory",
            "jump_hosts",
            "host_state",
            "netfilter",
            "resource",
            "interner",
            "problem",
            "characters",
        ],
    ),
    (
        "explain",
        &[
            "plan",
            "impact",
            "resolve",
            "expectation",
            "host_state",
            "netfilter",
            "resource",
            "problem",
            "characters",
        ],
    ),
    ("import", &["plan", "inventory", "host_state", "resource", "problem", "characters"]),
    ("host", &["protocol"]),
    ("ssh", &["files", "inventory", "host"]),
    (
        "engine",
        &[
            "plan",
            "explain",
            "resolve",
            "inventory",
            "expectation",
            "jump_hosts",
            "host_state",
            "protocol",
            "resource",
            "host",
            "ssh",
            "problem",
            "characters",
        ],
    ),
    // Sees what happened and what is planned, not how.
    ("report", &["engine", "plan", "impact", "explain", "resource", "problem", "characters"]),
    ("main", &["cli"]),
];

/// Where no file, process, socket, clock of the runtime or variable of the environment is touched.
fn is_pure(path: &str) -> bool {
    let rooms = [
        "resource",
        "expectation",
        "inventory",
        "jump_hosts",
        "resolve",
        "host_state",
        "plan",
        "netfilter",
        "impact",
        "explain",
        "import",
        "report",
    ];
    let files = [
        "engine/budget.rs",
        "engine/events.rs",
        "engine/outcome.rs",
        "engine/schedule/batches.rs",
        "engine/transaction/verdict.rs",
        "yaml.rs",
        "host.rs",
        "problem.rs",
        "interner.rs",
    ];
    let edge = ["inventory/load.rs", "inventory/fence.rs", "report/progress.rs"];
    !edge.contains(&path)
        && (files.contains(&path) || rooms.contains(&path.split('/').next().unwrap_or_default()))
}

/// Every file of `src` as it is compiled without tests: path below `src`, code without comments.
fn sources() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for path in files(Path::new("src"), "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix("src").unwrap().to_string_lossy().into_owned();
        if name.ends_with("/tests.rs") || name.ends_with("/fixtures.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        all.insert(name, code.map(|line| format!("{line}\n")).collect());
    }
    assert!(all.len() > 50, "only {} files", all.len());
    all
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if extension.is_empty() || path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn room(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// What follows `prefix::` in a text, one level deep, groups in braces opened.
fn after<'t>(code: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    let word = |text: &'t str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.extend([word(rest)]),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && c.is_alphabetic() => {
                            found.insert(word(&group[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found.remove("");
    found
}

fn wrong(list: Vec<String>) {
    assert!(list.is_empty(), "\n{}", list.join("\n"));
}

#[test]
fn rooms_name_only_rooms_before_them() {
    let mut bad = Vec::new();
    for (path, code) in sources() {
        let Some((name, allowed)) = DOORS.iter().find(|(name, _)| *name == room(&path)) else {
            assert!(matches!(room(&path), "cli" | "lib"), "{path} is in no room of DOORS");
            continue;
        };
        for other in after(&code, "crate::") {
            if other != *name && !allowed.contains(&other) {
                bad.push(format!("src/{path} names crate::{other}"));
            }
        }
    }
    wrong(bad);
}

/// Helpers that a page about the rooms need not name.
const HELPERS: [&str; 4] = ["characters", "files", "interner", "problem"];

#[test]
fn the_page_names_every_room() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let (_, table) = page.split_once("\n| Room |").unwrap();
    let table = table.split("\n\n").next().unwrap();
    let first = table.lines().skip(2).filter_map(|row| row.split(" | ").next());
    let named: BTreeSet<&str> = first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let rooms = DOORS.iter().map(|(name, _)| *name).filter(|name| *name != "main").chain(["cli"]);
    assert_eq!(named, rooms.filter(|name| !HELPERS.contains(name)).collect());
}

#[test]
fn pure_rooms_do_no_input_or_output() {
    let mut bad = Vec::new();
    for (path, code) in sources().into_iter().filter(|(path, _)| is_pure(path)) {
        for name in after(&code, "std::") {
            if matches!(name, "fs" | "process" | "env" | "thread" | "os") {
                bad.push(format!("src/{path} uses std::{name}"));
            }
        }
        for name in after(&code, "std::net::") {
            if name.starts_with("Tcp") || name.starts_with("Udp") || name.starts_with("ToSocket") {
                bad.push(format!("src/{path} uses std::net::{name}"));
            }
        }
        for name in ["tokio::", "nix::", "openssh::", "println!", "eprintln!"] {
            if code.contains(name) {
                bad.push(format!("src/{path} uses {name}"));
            }
        }
    }
    wrong(bad);
}

/// Names that more than one public type still has. A type that gets a name of its own leaves this list.
const SHARED_TYPE_NAMES: [&str; 1] = ["Style"];

/// Public types of the crate by name, each with the files that declare it.
fn public_types() -> BTreeMap<String, Vec<String>> {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, code) in sources() {
        for line in code.lines().filter(|line| line.starts_with("pub")) {
            let mut words = line.split_whitespace().filter(|word| !word.starts_with("pub"));
            let keyword = words.next().unwrap_or_default();
            if !matches!(keyword, "struct" | "enum" | "trait" | "type" | "union") {
                continue;
            }
            let rest = words.next().unwrap_or_default();
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            types.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    types
}

/// A reader who meets a type name must not have to ask which of two it is.
#[test]
fn public_types_have_distinct_names() {
    let types = public_types();
    assert!(types.len() > 150, "only {} types", types.len());
    let mut bad = Vec::new();
    for (name, files) in &types {
        if files.len() > 1 && !SHARED_TYPE_NAMES.contains(&name.as_str()) {
            bad.push(format!("two public types are called {name}: src/{}", files.join(", src/")));
        }
    }
    for name in SHARED_TYPE_NAMES {
        if types.get(name).is_none_or(|files| files.len() < 2) {
            bad.push(format!("{name} is now the name of one type: take it off SHARED_TYPE_NAMES"));
        }
    }
    wrong(bad);
}

/// Words that the glossary replaced. A word joins the list when the rooms that had it are renamed.
const RETIRED_WORDS: [&str; 20] = [
    "bystander",
    "bystanders",
    "cure",
    "cures",
    "dark",
    "fate",
    "foreign",
    "goal",
    "latecomer",
    "latecomers",
    "lead",
    "revert",
    "surroundings",
    "walk",
    "walked",
    "walker",
    "watchdog",
    "wave",
    "waves",
    "world",
];

/// Rooms whose identifiers still have a retired word. A room without it leaves this list.
const RETIRED_WORDS_LEFT: [(&str, &str); 0] = [];

/// The words of all identifiers of a text, strings left out: `guests_dark` and `GuestsDark` have `guests` and `dark`.
fn identifier_words(code: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut word = String::new();
    let (mut in_string, mut escaped) = (false, false);
    for c in code.chars().chain(['\n']) {
        if in_string {
            in_string = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
            continue;
        }
        in_string = c == '"';
        if !c.is_ascii_lowercase() {
            words.insert(std::mem::take(&mut word));
        }
        if c.is_ascii_alphabetic() {
            word.push(c.to_ascii_lowercase());
        }
    }
    words
}

#[test]
fn identifiers_have_no_retired_words() {
    let mut found = BTreeSet::new();
    for (path, code) in sources() {
        let words = identifier_words(&code.replace("'\"'", ""));
        found.extend(
            RETIRED_WORDS.into_iter().filter(|w| words.contains(*w)).map(|w| (room(&path).to_owned(), w)),
        );
    }
    let listed = |room: &str, word: &str| RETIRED_WORDS_LEFT.contains(&(room, word));
    let mut bad: Vec<String> = found
        .iter()
        .filter(|(room, word)| !listed(room, word))
        .map(|(room, word)| format!("an identifier in src/{room} has `{word}`, which the glossary replaced"))
        .collect();
    for (room, word) in RETIRED_WORDS_LEFT {
        if !found.contains(&(room.to_owned(), word)) {
            bad.push(format!("src/{room} has no `{word}` any more: take it off RETIRED_WORDS_LEFT"));
        }
    }
    wrong(bad);
}

#[test]
fn identifiers_are_cut_into_words() {
    let words = identifier_words("fn guests_dark(x: GuestsWalk) -> MAX { \"foreign \\\" words\" }");
    let all: Vec<&str> = words.iter().map(String::as_str).filter(|w| w.len() > 1).collect();
    assert_eq!(all, ["dark", "fn", "guests", "walk"]);
}

/// What leaves the program is escaped in one place; nothing may be written around it.
#[test]
fn text_leaves_through_one_outlet() {
    let mut bad = Vec::new();
    for (path, code) in sources().into_iter().filter(|(path, _)| path != "report/outlet.rs") {
        // To ask what they are is not to write to them.
        let asks =
            ["stdout().is_terminal()", "stderr().is_terminal()", "terminal_size_of(std::io::stderr())"];
        let asked = asks.iter().fold(code, |code, ask| code.replace(ask, ""));
        let writes = [
            "io::stdout",
            "io::stderr",
            "{stdout",
            "{stderr",
            " stdout,",
            " stderr,",
            "print!(",
            "println!(",
            "dbg!(",
            ".print()",
            "/dev/tty",
        ];
        for word in writes {
            let lines = asked.lines().filter(|line| line.contains(word));
            bad.extend(
                lines
                    .filter(|line| !word.starts_with([' ', '{']) || line.contains("use std::io"))
                    .map(|line| format!("src/{path} writes around report/outlet.rs: {}", line.trim())),
            );
        }
    }
    wrong(bad);
}

/// Who may read a file is decided in one place, and not by the umask.
#[test]
fn files_are_made_in_one_place() {
    let places = ["files.rs", "ssh/private.rs"];
    let makes = [
        "File::create",
        "fs::write(",
        "create_dir",
        "OpenOptions",
        "DirBuilder",
        "fs::copy",
        ".create(true)",
    ];
    for (path, code) in sources() {
        // Opens what is there, to read it.
        let code = code.replace("OpenOptionsExt", "");
        for make in makes.iter().filter(|_| !places.contains(&path.as_str())) {
            assert!(!code.contains(make), "{path} makes files by {make}: take crate::files");
        }
    }
}

#[test]
fn crates_have_one_place() {
    let only = [
        ("serde_yaml", "yaml.rs"),
        ("saphyr_parser", "yaml/shape.rs"),
        ("miette", "report/problems.rs"),
        ("indicatif", "report/progress.rs"),
        ("openssh", "ssh/session.rs"),
        ("similar", "plan/diff.rs"),
    ];
    let mut bad = Vec::new();
    for (path, code) in sources() {
        for (name, place) in only {
            if path != place && code.contains(&format!("{name}::")) {
                bad.push(format!("src/{path} names {name}, which belongs into src/{place}"));
            }
        }
    }
    wrong(bad);
}

#[test]
fn every_dependency_is_used() {
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let all: String = sources().into_values().collect();
    let names = section.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" = "));
    let unused: Vec<String> = names
        .map(|(name, _)| name.replace('-', "_"))
        .filter(|name| !all.contains(&format!("{name}::")))
        .map(|name| format!("Cargo.toml has {name}, and src does not use it"))
        .collect();
    wrong(unused);
}

#[test]
fn no_panic_is_planned() {
    let mut bad = Vec::new();
    for (path, code) in sources() {
        for word in [".unwrap()", ".expect(\"", "panic!(", "todo!(", "unimplemented!(", "unreachable!("] {
            if code.contains(word) {
                bad.push(format!("src/{path} has {word}"));
            }
        }
    }
    wrong(bad);
}

#[test]
fn the_lab_and_the_program_do_not_name_each_other() {
    for path in files(Path::new("tests/lab"), "") {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).to_lowercase();
        assert!(!text.contains("kvmfw"), "{} names the program that it is there to test", path.display());
    }
    for path in files(Path::new("src"), "") {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains("tests/lab"), "{} names the lab", path.display());
    }
}

#[test]
fn groups_in_braces_are_seen() {
    let code = "use std::{env, fs::{self, File}, net::TcpStream};\nstd::process::exit(1);";
    assert_eq!(after(code, "std::").into_iter().collect::<Vec<_>>(), ["env", "fs", "net", "process"]);
}

/// Lines of the scripts for hosts whose programs may fail unasked, and why that decides nothing.
const UNASKED: [(&str, &str); 14] = [
    ("routes=$(\"${IP:-ip}\" -o route show default;", "a gateway that is not seen is only set once more"),
    (
        "[ \"$(readlink $ETC/current)\" = \"$current\" ] || ! have netplan",
        "netplan reads its files once more",
    ),
    ("current=$(readlink $ETC/current)", "only asks whether netplan has to read its files once more"),
    ("[ \"$(cat /proc/sys/net/netfilter/nf_conntrack_count)\"", "ends a bounded wait early"),
    ("cat \"$folder/desired.json\"", "JSON that is cut off is none"),
    ("cat \"$ETC/generations/$to/desired.json\"", "JSON that is cut off is none"),
    ("cat $VAR/lock", "for people: who holds the lock"),
    ("cat \"$T/units/$unit\"", "its status is asked, and boot_install_units compares"),
    ("number=$(printf", "which rule a message names"),
    ("rule=$(printf", "which rule a message names"),
    ("predicted=$(printf '%s\\n' \"$predicted\"; ipt_print_culprit", "the words of a refusal"),
    ("id=$(sed -n", "no run is found, and nothing is done"),
    ("line=$(ipt_print_reason)", "the words of a message"),
    ("[ \"$(readlink \"$link\")\" != /dev/null ]", "a unit of others that is masked counts as enabled"),
];

/// Files of other programs: what is not seen there is told as not seen, or makes a warning too many.
const LOOKS_AT_OTHERS: [&str; 4] = ["unmanaged.sh", "explain.sh", "notes.sh", "probe.sh"];

/// A program that fails, or is killed, must not pass for an empty answer: whatever a script takes from one is asked for
/// its status or for its end, and files of ours are read by `text_read`.
#[test]
fn every_answer_of_a_program_on_a_host_is_checked() {
    let mut bad = Vec::new();
    let mut used = BTreeSet::new();
    for path in files(Path::new("src/host"), "sh") {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim();
            if code.starts_with('#') || !(takes_unasked(&lines, at) || reads_past_the_end(code)) {
                continue;
            }
            match UNASKED.iter().find(|(start, _)| code.contains(start)) {
                Some((start, _)) => drop(used.insert(*start)),
                None if LOOKS_AT_OTHERS.iter().any(|name| path.ends_with(name)) => {}
                None => bad.push(format!("{}:{}: {code}", path.display(), at + 1)),
            }
        }
    }
    bad.extend(
        UNASKED
            .iter()
            .filter(|(start, _)| !used.contains(start))
            .map(|(start, _)| format!("no longer there: {start}")),
    );
    wrong(bad);
}

/// Whether this line assigns what a program prints, and neither its status nor its end is looked at.
fn takes_unasked(lines: &[&str], at: usize) -> bool {
    let code = lines[at].trim();
    let Some(start) = code.find("=$(").filter(|start| !code[*start..].starts_with("=$((")) else {
        return false;
    };
    let name = code[..start].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
    let (rest, next) = (&code[start..], lines.get(at + 1).map_or("", |line| line.trim()));
    if name.is_empty() || rest.contains(" || ") || rest.contains(" && ") || next.contains("$?") || next == "}"
    {
        return false;
    }
    if ["if ", "elif ", "while ", "until "].iter().any(|word| code.starts_with(word)) {
        return false;
    }
    let open =
        rest.matches('(').count() > rest.matches(')').count() || rest.ends_with('\'') || rest.contains("<<-");
    let function = lines[at..].iter().take_while(|line| **line != "}");
    let asked = [
        format!("text_unwrap_output \"${name}\""),
        format!("text_unwrap \"${name}"),
        format!("case ${name} in"),
        "rc=$?".to_owned(),
        "case $? in".to_owned(),
    ];
    !(open
        && function
            .clone()
            .any(|line| asked.iter().any(|a| line.contains(a.as_str())) || line.trim().starts_with(") ||")))
}

/// Whether this line reads a file of ours in a way that cannot tell a part of it from all, or takes what a program
/// prints as a word of its own.
fn reads_past_the_end(code: &str) -> bool {
    let cat = [
        "cat \"$ETC",
        "cat $ETC",
        "cat \"$VAR",
        "cat $VAR",
        "cat \"$T/",
        "cat $T/",
        "cat \"$G",
        "cat $G",
        "cat \"$folder",
    ];
    let words = ["\"$(cat ", "\"$(readlink ", "\"$(awk ", "\"$(sed ", "\"$(ls ", "case $("];
    let message = ["say ", "guard_broadcast ", "txn_fail ", "refuse ", "echo ", "printf ", "txn_decide "];
    cat.iter().any(|start| code.contains(start))
        || words.iter().any(|start| code.contains(start)) && !message.iter().any(|word| code.contains(word))
}

/// Programs that wait for others: daemons, locks, the network, devices.
const WAITS: [&str; 14] = [
    "systemctl",
    "systemd-run",
    "networkctl",
    "nmcli",
    "logger",
    "wall",
    "netplan",
    "udevadm",
    "modprobe",
    "flock",
    "ping",
    "nc",
    "dd",
    "journalctl",
];

/// Calls without a limit of their own, and why nobody who has to put a host back waits for them.
const UNLIMITED: [(&str, &str); 2] = [
    // Of a plan, in the background, and ping has a limit.
    ("probe.sh", "if have ping; then ping -c 1 -W 1 \"${jump#*=}\" >/dev/null 2>&1 & fi"),
    // The guard kills the apply at its deadline.
    (
        "change.sh",
        "modprobe br_netfilter || [ -d /proc/sys/net/bridge ] || txn_fail \"cannot load br_netfilter\"",
    ),
];

/// The scripts of hosts by their names, without lines that are comments.
fn host_scripts() -> Vec<(String, String)> {
    let files = fs::read_dir("src/host").unwrap().flatten().map(|e| e.path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "sh"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with('#')).collect();
            (path.file_name().unwrap().to_string_lossy().into_owned(), code.join("\n"))
        })
        .collect()
}

/// Whether word `at` of a line of a script starts a program that may wait for ever.
fn waits_for_ever(words: &[&str], at: usize) -> bool {
    let word = words[at].trim_start_matches("$(").trim_start_matches("\"$(");
    if !WAITS.contains(&word) {
        return false;
    }
    // By KILL: a guard ignores the other signals, and so does what it starts.
    let before = &words[at.saturating_sub(4)..at];
    let killed = before.len() == 4 && before[0].ends_with("timeout") && before[1..3] == ["-s", "KILL"];
    let limited = killed || before.ends_with(&["timeout", "\"$seconds\""]);
    let named = before.last().is_some_and(|w| *w == "have" || *w == "-v");
    // What BusyBox's leaves behind holds on to a lock that was taken by its number.
    let by_number = word == "flock" && words.get(at + 1).is_some_and(|next| next.parse::<u8>().is_ok());
    assert!(!by_number || words[at.saturating_sub(5)] == "command", "{words:?}: lock_within is for this");
    let at_once = word == "flock" && words.get(at + 1).is_some_and(|next| next.starts_with("-n"));
    !limited && !named && !at_once
}

/// A rollback must not wait for what the change may have cut off.
#[test]
fn every_program_that_can_hang_on_a_host_has_a_limit() {
    let mut unused: BTreeSet<_> = UNLIMITED.into_iter().collect();
    let mut checked = 0;
    let scripts = host_scripts();
    for (name, code) in &scripts {
        for line in code.lines().map(str::trim).filter(|l| !l.starts_with("for tool in ")) {
            let words: Vec<&str> = line.split([' ', '\t', '(', ';']).filter(|w| !w.is_empty()).collect();
            checked += words.iter().filter(|w| WAITS.contains(w)).count();
            if !(0..words.len()).any(|at| waits_for_ever(&words, at)) || unused.remove(&(name.as_str(), line))
            {
                continue;
            }
            panic!("{name}: `{line}`: without `timeout` a host may wait for ever");
        }
    }
    assert!(unused.is_empty(), "no longer there: {unused:?}");
    assert!(checked > 30, "found only {checked} calls");
}

/// What the names of a script's functions begin with: the part of the job that they do. `lib.sh` has general helpers
/// without a prefix too; they are listed as whole names.
const PREFIXES: [(&str, &[&str]); 32] = [
    ("adopt.sh", &["adopt_"]),
    ("boot.sh", &["boot_"]),
    ("boot_settle.sh", &["boot_", "ipt_"]),
    ("bridges.sh", &["net_"]),
    ("change.sh", &["txn_", "ipt_"]),
    ("conntrack.sh", &["flows_"]),
    ("explain.sh", &["explain_"]),
    ("files.sh", &["files_", "net_"]),
    ("generation.sh", &["generation_"]),
    ("guard.sh", &["guard_", "txn_", "proc_"]),
    ("history.sh", &["history_"]),
    ("ipset.sh", &["ipset_", "probe_"]),
    ("ipset_change.sh", &["ipset_", "txn_", "boot_", "undo_"]),
    ("iptables.sh", &["ipt_"]),
    ("lib.sh", &["text_", "disk_", "lock_", "read_"]),
    ("main.sh", &[]),
    ("memory.sh", &["memory_", "guard_", "proc_"]),
    ("neighbours.sh", &["net_"]),
    ("network.sh", &["net_"]),
    ("notes.sh", &["note_", "link_"]),
    ("over.sh", &[]),
    ("persist.sh", &["persist_", "boot_", "ipt_"]),
    ("probe.sh", &["probe_"]),
    ("start.sh", &[]),
    ("status.sh", &["status_"]),
    ("sysctl.sh", &["sysctl_"]),
    ("sysctl_effects.sh", &["sysctl_"]),
    ("transaction.sh", &["txn_", "guard_"]),
    ("undo.sh", &["undo_", "sysctl_"]),
    ("undo_target.sh", &["undo_"]),
    ("unmanaged.sh", &["probe_"]),
    ("upload.sh", &["upload_"]),
];
const GENERAL_FUNCTIONS: [&str; 14] = [
    "feed",
    "find_program",
    "first_line",
    "have",
    "ip",
    "last_line",
    "main",
    "refuse",
    "say",
    "section",
    "sync",
    "timeout",
    "unshare",
    "uptime_cs",
];

/// A name says which part of the job a function of the shell does, and stands for one function only: all scripts are
/// put together into one.
#[test]
fn every_function_on_a_host_has_a_name_of_its_own() {
    let mut bad = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (file, code) in host_scripts() {
        let Some((_, prefixes)) = PREFIXES.iter().find(|(name, _)| *name == file) else {
            bad.push(format!("{file}: which prefixes do its functions have? PREFIXES"));
            continue;
        };
        for line in code.lines() {
            let Some((name, _)) = line.trim_start().split_once("() {") else { continue };
            if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                continue;
            }
            let general = matches!(file.as_str(), "lib.sh" | "main.sh") && GENERAL_FUNCTIONS.contains(&name);
            if !general && !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                bad.push(format!("{file}: {name} has none of the prefixes {prefixes:?}"));
            }
            if let Some(other) = seen.insert(name.to_owned(), file.clone()) {
                bad.push(format!("{file}: {other} has a function {name} too"));
            }
        }
    }
    assert!(seen.len() > 200, "{seen:?}");
    wrong(bad);
}

/// What a guard does itself between the arming and the end of the rollback.
const ON_THE_WAY_BACK: [&str; 26] = [
    "last_line",
    "guard_wake",
    "guard_set_deadline",
    "guard_stop_timer",
    "guard_start_timer",
    "guard_seconds_left",
    "txn_limit",
    "txn_decide",
    "guard_watch",
    "guard_fence",
    "proc_group_lives",
    "guard_finish",
    "guard_finish_rollback",
    "txn_print_reason",
    "guard_set_state",
    "guard_note_unrecorded",
    "guard_work_restore",
    "guard_beat",
    "proc_read_stat",
    "guard_find_actor",
    "guard_actor_lives",
    "guard_overdue",
    "guard_take_place",
    "guard_await_turn",
    "guard_work",
    "guard_outlive",
];

/// None of it reads or writes the disk, which the change may have cut off.
#[test]
fn a_rollback_needs_no_disk() {
    let scripts = host_scripts();
    let all: String = scripts
        .iter()
        .filter(|(name, _)| ["guard.sh", "memory.sh", "lib.sh"].contains(&name.as_str()))
        .map(|(_, code)| code.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    for name in ON_THE_WAY_BACK {
        let start = format!("{name}() {{");
        let at = all.lines().position(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("no {name}"));
        let one_line = all.lines().nth(at).unwrap().ends_with('}');
        let length =
            if one_line { 1 } else { all.lines().skip(at).position(|l| l.starts_with('}')).unwrap() };
        for line in all.lines().skip(at).take(length) {
            let disk = ["$T", "$VAR", "$ETC", "disk_sync"].iter().any(|word| line.contains(word));
            // Before memory is filled, at boot, as text for people, or behind `guard_detach`, where nobody waits.
            let excused = ["filled", "booting", "guard_broadcast"].iter().any(|word| line.contains(word))
                || line.trim() == "true >\"$T/applied\"";
            assert!(!disk || excused, "{name}: `{}` needs the disk", line.trim());
        }
    }
}

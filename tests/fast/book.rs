//! Keeps README and book true: files, links, commands, flags, exit codes, reasons, YAML.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::inventory::{ProjectLocation, load_text, module_tests};
use kvmfw::plan::module_test;
use kvmfw::problem::LintCode;
use kvmfw::resolve::compile;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const BOOK: &str = "book/src";

/// The pages of the book by file name.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(BOOK).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".md") {
            continue;
        }
        pages.insert(name, fs::read_to_string(path).unwrap());
    }
    pages
}

/// The pages for contributors, by path.
fn contributors() -> BTreeMap<String, String> {
    let mut paths: Vec<_> = ["ARCHITECTURE.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "STYLE.md"]
        .map(PathBuf::from)
        .to_vec();
    for folder in ["docs", "docs/adr", "src/host"] {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    let read = |path: PathBuf| (path.to_string_lossy().into_owned(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// README, CHANGELOG, the pages for contributors and those of the book, by path.
fn texts() -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> =
        pages().into_iter().map(|(name, text)| (format!("{BOOK}/{name}"), text)).collect();
    for name in ["README.md", "CHANGELOG.md"] {
        texts.insert(name.to_owned(), fs::read_to_string(name).unwrap());
    }
    texts.extend(contributors());
    texts
}

/// The targets of links outside of code blocks.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.starts_with("```");
        if !code {
            links
                .extend(line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
        }
    }
    links
}

/// Code blocks with what stands after the fence.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(done)) => blocks.push(done),
            (Some(kind), None) => open = Some((kind.to_owned(), String::new())),
            (None, Some((kind, body))) => open = Some((kind, format!("{body}{line}\n"))),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a code block is not closed");
    blocks
}

/// What mdbook makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|l| l.starts_with('#')).map(|l| anchor(l.trim_start_matches('#'))).collect()
}

#[test]
fn summary_names_every_page() {
    let pages = pages();
    let named: BTreeSet<String> = links(&pages["SUMMARY.md"]).into_iter().collect();
    let there: BTreeSet<String> = pages.keys().filter(|name| *name != "SUMMARY.md").cloned().collect();
    assert_eq!(named, there);
}

#[test]
fn links_lead_somewhere() {
    let texts = texts();
    let mut broken = Vec::new();
    for (path, text) in &texts {
        for link in links(text).into_iter().filter(|link| !link.contains("://")) {
            let (file, part) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => path.clone(),
                _ => match Path::new(path).parent().filter(|p| *p != Path::new("")) {
                    Some(folder) => format!("{}/{file}", folder.display()),
                    None => file.to_owned(),
                },
            };
            let right = Path::new(&target).exists()
                && (part.is_empty() || texts.get(&target).is_some_and(|t| anchors(t).contains(part)));
            if !right {
                broken.push(format!("{path}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What the pages for contributors call by its path is there. A part in capitals stands for any name.
#[test]
fn paths_of_contributors_exist() {
    let rooms = ["src/", "tests/", "book/", "docs/", "benches/", "fuzz/", "modules/", ".ci/", ".github/"];
    let mut count = 0;
    for (path, text) in contributors() {
        for word in text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace) {
            if !rooms.iter().any(|room| word.starts_with(room)) {
                continue;
            }
            let is_name =
                |part: &&str| !part.chars().any(|c| c.is_ascii_uppercase()) || part.ends_with(".md");
            let parts: Vec<&str> = word.split('/').take_while(is_name).collect();
            assert!(Path::new(&parts.join("/")).exists(), "{path}: there is no {word}");
            count += 1;
        }
    }
    assert!(count > 80, "only {count}");
}

/// What the forge runs is what everybody can run.
#[test]
fn workflows_call_the_scripts() {
    for (file, script) in [("ci", ".ci/run"), ("nightly", ".ci/nightly")] {
        let text = fs::read_to_string(format!(".github/workflows/{file}.yml")).unwrap();
        assert!(text.lines().any(|line| line.ends_with(script)), "{file}.yml does not call {script}");
        assert!(Path::new(script).exists(), "{script}");
    }
}

/// In tables of places, what the last column calls by a name of Rust or sh stands in the files of that row.
#[test]
fn names_in_tables_of_places_exist() {
    let mut count = 0;
    for (path, text) in contributors().into_iter().filter(|(path, _)| path.starts_with("docs/adding")) {
        for row in text.lines().filter(|line| line.starts_with("| ")) {
            let columns: Vec<&str> = row.trim_matches('|').split(" | ").collect();
            let [number, places, what] = columns[..] else { continue };
            if number.trim().parse::<u32>().is_err() {
                continue;
            }
            let files = places
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|file| file.ends_with(".rs") || file.ends_with(".sh"));
            let source: String = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
            for name in what.split('`').skip(1).step_by(2).filter(|_| !source.is_empty()) {
                if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
                    let found = name.split("::").all(|part| source.contains(part));
                    assert!(found, "{path}: no {name} in {places}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 25, "only {count}");
}

#[test]
fn commands_and_flags_exist() {
    let help = fs::read_to_string("tests/data/help.txt").unwrap();
    let flags: BTreeSet<&str> = help
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .collect();
    for (path, text) in texts() {
        for (kind, body) in blocks(&text).into_iter().filter(|(kind, _)| kind == "console" || kind == "sh") {
            for line in body.lines() {
                let command = line.strip_prefix("$ ").unwrap_or(if kind == "sh" { line } else { "" });
                let mut words = command.split_whitespace().take_while(|word| *word != "#");
                match words.next() {
                    Some("kvmfw") => {
                        let name = words.next().unwrap();
                        let known = help.contains(&format!("\n$ kvmfw {name} --help\n"));
                        assert!(known || flags.contains(name), "{path}: {line}");
                        for flag in words.filter(|word| word.starts_with("--")) {
                            assert!(flags.contains(flag), "{path}: {line}: {flag}");
                        }
                    }
                    Some(script) if script.starts_with("tests/") => {
                        assert!(Path::new(script).exists(), "{path}: {script} does not exist");
                    }
                    Some("bash") => {
                        let script = words.next().unwrap();
                        // A page may give a path a name: `export LAB=$PWD/tests/lab/lab.sh`.
                        let named = script.strip_prefix('$').map(|name| format!("$ export {name}=$PWD/"));
                        let named = named.and_then(|named| text.lines().find_map(|l| l.strip_prefix(&named)));
                        let script = named.unwrap_or(script);
                        assert!(Path::new(script).exists(), "{path}: {script} does not exist");
                    }
                    _ => {}
                }
            }
        }
        // Flags that the text mentions; this page is the program's own text.
        if path.ends_with("/commands.md") {
            continue;
        }
        for code in text.split('`').skip(1).step_by(2) {
            for flag in code.split_whitespace().filter(|w| w.starts_with("--") && w.len() > 2) {
                let ours = !["iptables", "-j", "-m", "cargo", "sysctl", "ansible", "puppet", "podman"]
                    .iter()
                    .any(|w| code.contains(w));
                assert!(!ours || flags.contains(flag), "{path}: `{code}`");
            }
        }
    }
}

#[test]
fn readme_is_one_screen() {
    let readme = fs::read_to_string("README.md").unwrap();
    assert!(readme.lines().count() <= 70);
    assert!(readme.contains("tests/demo.sh") && readme.contains("tests/run.sh"));
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let source = fs::read_to_string("src/cli/exit.rs").unwrap();
    let lines: Vec<&str> = source.lines().collect();
    let mut expected = Vec::new();
    for pair in lines.windows(2) {
        let Some(rest) = pair[1].strip_prefix("pub const ") else { continue };
        let Some((name, code)) = rest.split_once(": u8 = ") else { continue };
        let meaning = pair[0].strip_prefix("/// ").unwrap();
        expected.push(format!("| {} | {name} | {meaning} |", code.trim_end_matches(';')));
    }
    assert!(expected.len() >= 9);
    let page = &pages()["exit-codes.md"];
    let table: Vec<&str> = page.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| code")).collect();
    assert_eq!(table, expected);
    let order = lines[0].split("Several at once: ").nth(1).unwrap();
    assert!(page.contains(order), "{order}");
}

/// Words in quotes right after one of these texts, white space left out.
fn quoted_after(source: &str, before: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for text in before {
        for rest in source.split(text).skip(1) {
            let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
            let word = rest.split('"').next().unwrap();
            if !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                found.insert(word.to_owned());
            }
        }
    }
    found
}

/// What stands in a module's file and in the files below it.
fn module(path: &str) -> String {
    let mut text = fs::read_to_string(format!("{path}.rs")).unwrap_or_default();
    if let Ok(entries) = fs::read_dir(path) {
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut below: Vec<_> = paths
            .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"))
            .map(|path| path.with_extension(""))
            .collect();
        below.sort();
        below.dedup();
        text.extend(below.iter().map(|path| module(path.to_str().unwrap())));
    }
    assert!(!text.is_empty(), "{path}: there is no such module");
    text
}

#[test]
fn every_reason_is_explained() {
    let mut reasons = quoted_after(&module("src/plan/host"), &["Refusal::new("]);
    reasons.extend(quoted_after(&module("src/plan/bridge"), &["Err(("]));
    let engine = module("src/engine");
    reasons.extend(quoted_after(
        &engine,
        &[".reason(", "refused(host,", "_ => (", "away(", "STRAGGLER: &str ="],
    ));
    for entry in fs::read_dir("src/host").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sh") {
            let text = fs::read_to_string(path).unwrap();
            let after = text.split("refuse ").skip(1).map(|rest| rest.split([' ', '\n']).next().unwrap());
            let words =
                after.filter(|w| w.len() > 3 && w.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
            reasons.extend(words.map(str::to_owned));
        }
    }
    assert!(
        reasons.len() > 20 && ["stale", "locked", "lost", "straggler"].iter().all(|r| reasons.contains(*r)),
        "{reasons:?}"
    );
    let page = &pages()["refusals.md"];
    let headings = anchors(page);
    let missing: Vec<&String> = reasons.iter().filter(|reason| !headings.contains(*reason)).collect();
    assert!(missing.is_empty(), "refusals.md has no heading for {missing:?}");
}

#[test]
fn warnings_are_explained() {
    let pages = pages();
    let page = &pages["lints.md"];
    let plan = pages["first-plan.md"].split_whitespace().collect::<Vec<_>>().join(" ");
    let human = fs::read_to_string("src/report/human.rs").unwrap();
    for rest in human.split("=> \"! ").skip(1) {
        let risk = rest.split('"').next().unwrap().to_owned();
        let shown = plan.contains(&format!("*{risk}*"));
        assert!(shown, "first-plan.md does not name the risk `{risk}`");
    }
    for lint in LintCode::ALL {
        assert!(page.contains(&format!("`{lint}`")), "lints.md does not explain {lint}");
    }
}

/// A block whose first line is `# inventories/…` or `# modules/NAME/module.yaml` is read as that; the
/// modules of a page are there for its inventories.
#[test]
fn yaml_is_what_kvmfw_reads() {
    let mut count = 0;
    for (path, text) in texts() {
        let yaml: Vec<String> =
            blocks(&text).into_iter().filter(|(kind, _)| kind == "yaml").map(|(_, body)| body).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut inventories = Vec::new();
        for body in yaml {
            let name = body.lines().next().unwrap().trim_start_matches("# ").to_owned();
            if name.starts_with("modules/") {
                let file = folder.path().join(&name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, body).unwrap();
                inventories.push("hosts: { kvm1: { } }\n".to_owned());
            } else {
                assert!(name.starts_with("inventories/"), "{path}: a yaml block says not what it is: {name}");
                inventories.push(body);
            }
        }
        for body in inventories {
            let locate = ProjectLocation {
                dir: Some(folder.path().to_owned()),
                home: Some("/home/ops".into()),
                ..ProjectLocation::default()
            };
            let project =
                load_text(&locate, "book", &body).unwrap_or_else(|e| panic!("{path}: {:#?}", e.list));
            let hosts: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
            compile(&project, &hosts).unwrap_or_else(|e| panic!("{path}: {e:#?}"));
            let (tests, _) = module_tests(&project).unwrap_or_else(|e| panic!("{path}: {:#?}", e.list));
            for test in tests {
                let wrong = module_test(&project, &test);
                assert!(wrong.is_empty(), "{path}: {wrong:#?}");
            }
            count += 1;
        }
    }
    assert!(count >= 8, "only {count}");
}

/// The tiers of a test, by where it stands and what it asks for; panics where it is no test that cargo runs.
fn tier_of(name: &str) -> &'static str {
    let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{name} names no file"));
    let is_there = |folder: &&&str| {
        let path = Path::new(folder).join(file);
        path.is_dir() || path.with_extension("rs").exists()
    };
    let folders = ["tests/hosts", "tests/fast", "tests/vm", "tests", "src"];
    let folder = folders.iter().find(is_there).unwrap_or_else(|| panic!("{name}: there is no such file"));
    let text = module(&format!("{folder}/{file}"));
    let head = text
        .find(&format!("#[test]\nfn {test}() {{\n"))
        .or_else(|| text.find(&format!("    #[test]\n    fn {test}() {{\n")));
    let head = head.unwrap_or_else(|| panic!("{name} is no test"));
    let body = &text[head..];
    let body = body.find("\n}\n").map_or(body, |end| &body[..end]);
    match (*folder, file) {
        ("src", _) => "unit",
        (_, "boots") => "container",
        (_, "vm") if body.contains("Kind::Emulated") => "VM",
        (_, "vm") => {
            assert!(body.contains("Kind::Container"), "{name}: neither emulated nor a container");
            "container"
        }
        _ if text.contains("Lab::") => "lab",
        _ => "unit",
    }
}

/// Every row of the list of faults is there, and every test that it names, in the tier that it says.
#[test]
fn every_fault_has_its_test() {
    let page = &pages()["faults.md"];
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| fault |") && !l.starts_with("| row |"))
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    for number in 1..=40 {
        let row = format!("T{number}");
        assert_eq!(names.iter().filter(|n| **n == row).count(), 1, "{row}");
    }
    for fault in [
        "controller killed before arming",
        "controller killed when armed",
        "controller killed while the change is made",
        "controller killed when applied",
        "controller killed when decided",
        "link cut both ways",
        "link cut one way",
        "guard killed",
        "host rebooted",
        "power cut when staged",
        "power cut when armed",
        "power cut while the change is made",
        "power cut when applied",
        "power cut when decided",
        "power cut when done",
        "apply hangs",
        "apply half done",
        "xtables lock held",
        "disk full or read-only after arming",
        "two controllers",
        "confirm reply lost",
        "`daemon-reload`",
        "foreign rules added meanwhile",
        "the first conntrack rule ever",
        "a `KillUserProcesses` session",
    ] {
        assert_eq!(names.iter().filter(|name| **name == fault).count(), 1, "{fault}");
    }
    let mut count = 0;
    for row in rows {
        let (tests, tier) = (row[row.len() - 2], row[row.len() - 1]);
        let tiers: BTreeSet<&str> = tests.split('`').skip(1).step_by(2).map(tier_of).collect();
        assert_eq!(tier.split(", ").collect::<BTreeSet<_>>(), tiers, "{}: tier", row[0]);
        count += tests.split('`').skip(1).step_by(2).count();
    }
    assert!(count > 60, "only {count}");
}

/// The chaos page is one whole run of the runner as it is: a fault or step that came later wants a new run.
#[test]
fn chaos_has_struck_everywhere() {
    let page = &pages()["chaos.md"];
    let (_, seed) = page.split_once("\nSeed ").unwrap();
    let runs: u64 = seed.split(' ').nth(3).unwrap().parse().unwrap();
    assert!(runs >= 1000 && seed.contains(&format!(": {runs} runs, 0 violations.")), "{seed}");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|l| l.starts_with("| "))
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names = |kind: &str| -> Vec<String> {
        let text = std::fs::read_to_string("tests/chaos/fault.rs").unwrap();
        let (_, list) = text.split_once(&format!("names!({kind} {{\n")).unwrap();
        let (list, _) = list.split_once("});").unwrap();
        list.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    };
    assert_eq!(rows[0][1..], names("Step"));
    assert_eq!(rows[1..].iter().map(|row| row[0]).collect::<Vec<_>>(), names("Fault"));
    for row in &rows[1..] {
        let cells: Vec<&str> = row[1..].iter().copied().filter(|cell| !cell.is_empty()).collect();
        assert!(cells.len() >= 2 && cells.iter().all(|cell| *cell != "0/0"), "{row:?}");
    }
}

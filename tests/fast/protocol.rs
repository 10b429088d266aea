//! Holds the scripts for hosts, `src/protocol.rs` and the page `PROTOCOL.md` together: sections, keys, commands and files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const SCRIPTS: &str = "src/host";

/// Functions and awk programs that print keys for the sections that their callers start.
const PRINT_FOR: [(&str, &[&str]); 10] = [
    ("probe_boot_state", &["state", "status"]),
    ("probe_managers", &["others"]),
    ("probe_nft", &["others"]),
    ("NATIVE_AWK", &["others"]),
    // Inside note_print.awk.
    ("writers", &["evidence"]),
    ("libvirt", &["network"]),
    ("adopt_print_counts", &["status"]),
    ("status_unrecorded", &["status"]),
    ("status_differs", &["status"]),
    ("document", &["outcome"]),
];

/// A function of a script, or an awk program, with its code.
struct Part {
    name: String,
    code: String,
}

/// The functions of all scripts in order of files. What stands outside of functions belongs to the part before it.
fn parts() -> Vec<Part> {
    let folders = [SCRIPTS.to_owned(), format!("{SCRIPTS}/awk")];
    let mut files: Vec<_> =
        folders.iter().flat_map(|f| fs::read_dir(f).unwrap()).map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "sh" || e == "awk"));
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    let mut parts = Vec::new();
    for path in files {
        let name = match path.extension() {
            Some(e) if e == "awk" => path.file_stem().unwrap().to_string_lossy().into_owned(),
            _ => path.display().to_string(),
        };
        parts.push(Part { name, code: String::new() });
        for line in fs::read_to_string(&path).unwrap().lines() {
            let head = line.strip_prefix("function ").unwrap_or(line);
            let word: String = head.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let rest = &head[word.len()..];
            let starts = rest.starts_with("() {") || line.starts_with("function ") || rest == "='";
            // One line programs have their quote behind them.
            let starts = starts || word.ends_with("_AWK") && rest.starts_with('=');
            if starts && !word.is_empty() {
                parts.push(Part { name: word, code: String::new() });
            }
            if !line.trim_start().starts_with('#') {
                let code = &mut parts.last_mut().unwrap().code;
                code.push_str(line);
                code.push('\n');
            }
        }
    }
    // The answer that a document gives by itself, where a host does not have the transaction.
    let documents = fs::read_to_string("src/host.rs").unwrap();
    let printed = documents.split("printf '").skip(1).map(|rest| rest.split('\'').next().unwrap());
    let code = printed.map(|text| format!("printf '{}'\n", text.replace("\\\\n", "\\n"))).collect();
    parts.push(Part { name: "document".to_owned(), code });
    parts
}

/// A name with `4` and `6` in place of the variable that stands for the family.
fn families(name: &str) -> Vec<String> {
    match name.strip_suffix("$1") {
        Some(stem) => vec![format!("{stem}4"), format!("{stem}6")],
        None => vec![name.to_owned()],
    }
}

/// A place in a part's code at which something is printed.
enum Printed {
    Section(Vec<String>),
    Key(String),
}

fn is_key(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-'
}

/// Sections that are started and keys that are printed, in the order of the code.
fn printed(code: &str) -> Vec<Printed> {
    let mut found = BTreeMap::new();
    for start in ["note_section ", "section "] {
        for (at, _) in code.match_indices(start) {
            if code[..at]
                .ends_with(|c: char| c.is_alphanumeric() || "_ (".contains(c) && !code[..at].ends_with(" "))
            {
                continue;
            }
            let rest = code[at + start.len()..].trim_start_matches('"');
            let name: String = rest.chars().take_while(|c| is_key(*c) || ".$".contains(*c)).collect();
            let name = if rest.starts_with("record $") { "record N".to_owned() } else { name };
            found.insert(at, Printed::Section(families(&name)));
        }
    }
    let starts = [
        "printf '",
        "echo ",
        "echo \"",
        "note_line ",
        "note_line '",
        "note_line \"",
        "s/^/",
        "print \"",
        "printf \"",
    ];
    for start in starts {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            // A text of more than one line has a key on each.
            let text = if start == "printf '" { rest.split('\'').next().unwrap() } else { rest };
            let lines = if start == "printf '" { text.split("\\n").collect() } else { vec![text] };
            for (number, line) in lines.into_iter().enumerate() {
                let key: String = line.chars().take_while(|c| is_key(*c)).collect();
                if !key.is_empty() && line[key.len()..].starts_with('=') {
                    found.insert(at + number, Printed::Key(key));
                }
            }
        }
    }
    // It prints what its second argument begins with.
    for (at, _) in code.match_indices("probe_guest_port \"") {
        let key = code[at..].split(' ').nth(2).unwrap().trim_start_matches('"');
        if let Some((key, _)) = key.split_once('=') {
            found.insert(at, Printed::Key(key.to_owned()));
        }
    }
    found.into_values().collect()
}

/// Sections of the scripts, and the keys that each of them has.
fn sections_of_scripts() -> BTreeMap<String, BTreeSet<String>> {
    let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for part in parts() {
        let owners = PRINT_FOR.iter().find(|(name, _)| *name == part.name).map_or(&[][..], |(_, of)| of);
        let mut open: Vec<String> = owners.iter().map(ToString::to_string).collect();
        for printed in printed(&part.code) {
            match printed {
                Printed::Section(names) => {
                    for name in &names {
                        sections.entry(name.clone()).or_default();
                    }
                    // What ends an answer early is followed by other ways through the same section.
                    if names != ["end"] {
                        open = names;
                    }
                }
                Printed::Key(key) => {
                    assert!(
                        !open.is_empty(),
                        "{}: in which section is the key `{key}`? PRINT_FOR",
                        part.name
                    );
                    for name in &open {
                        sections.entry(name.clone()).or_default().insert(key.clone());
                    }
                }
            }
        }
    }
    sections
}

fn page() -> String {
    fs::read_to_string(format!("{SCRIPTS}/PROTOCOL.md")).unwrap()
}

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The text of the page below a heading, up to the next of the same or a higher level.
fn below<'p>(page: &'p str, heading: &str) -> &'p str {
    let level = heading.split(' ').next().unwrap();
    let start = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let text = &page[start + heading.len() + 2..];
    let end = (1..=level.len()).filter_map(|n| text.find(&format!("\n{} ", "#".repeat(n)))).min();
    &text[..end.unwrap_or(text.len())]
}

/// The words in the first column of the tables below a heading.
fn first_column(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.flat_map(|row| quoted(row.split(" |").next().unwrap())).map(str::to_owned).collect()
}

/// Sections of the page, and the keys that each of them has.
fn sections_of_page() -> BTreeMap<String, BTreeSet<String>> {
    let page = page();
    let mut sections = BTreeMap::new();
    for heading in below(&page, "## Sections").lines().filter(|line| line.starts_with("### ")) {
        let keys = first_column(below(&page, heading));
        for name in quoted(heading) {
            assert!(sections.insert(name.to_owned(), keys.clone()).is_none(), "{name} is there twice");
        }
    }
    sections
}

#[test]
fn sections_and_their_keys_are_documented() {
    let (scripts, page) = (sections_of_scripts(), sections_of_page());
    assert_eq!(scripts.keys().collect::<Vec<_>>(), page.keys().collect::<Vec<_>>());
    for (name, keys) in &scripts {
        assert_eq!(keys, &page[name], "keys of the section `{name}`, in the scripts and on the page");
    }
}

/// The names of sections that the program can read.
fn constants() -> BTreeMap<String, String> {
    let source = fs::read_to_string("src/protocol.rs").unwrap();
    let (types, list) = source.split_once("\nsections! {\n").unwrap();
    let mut all = BTreeMap::new();
    for line in list.lines().filter_map(|line| line.strip_prefix("    ")) {
        let (name, rest) = line.split_once(" = \"").unwrap();
        all.insert(name.to_owned(), rest.split('"').next().unwrap().to_owned());
    }
    for (number, rest) in types.split("SectionName(\"").skip(1).enumerate() {
        all.insert(format!("{number}"), rest.split('"').next().unwrap().to_owned());
    }
    assert!(all.len() > 30, "{all:?}");
    all
}

/// The constants are the sections that the page says are read; whoever misspells one learns it here.
#[test]
fn section_names_are_those_of_the_page() {
    let page = page();
    let mut read = BTreeSet::new();
    for heading in below(&page, "## Sections").lines().filter(|line| line.starts_with("### ")) {
        let text = below(&page, heading).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.starts_with("Writer: `") && text.contains(". Reader: "), "{heading}: {text}");
        if !text.contains("Reader: none") {
            read.extend(quoted(heading).map(|name| name.trim_end_matches(" N").to_owned()));
        }
    }
    assert_eq!(read, constants().into_values().collect::<BTreeSet<_>>());
}

/// Each key that the program asks a section for by name is one that the section has.
#[test]
fn keys_that_are_read_exist() {
    let (names, page) = (constants(), sections_of_page());
    let mut count = 0;
    let mut check = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        for rest in ["value(", "values("].iter().flat_map(|call| text.split(call).skip(1)) {
            let rest = rest.trim_start();
            let Some(rest) = rest.strip_prefix("protocol::") else { continue };
            let Some((constant, rest)) = rest.split_once(',') else { continue };
            let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
            let (section, key) = (&names[constant], rest.split('"').next().unwrap());
            assert!(page[section].contains(key), "{}: `{section}` has no key `{key}`", path.display());
            count += 1;
        }
    };
    each_source(Path::new("src"), &mut check);
    assert!(count > 20, "only {count}");
}

fn each_source(folder: &Path, check: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_source(&path, check);
        } else if path.extension().is_some_and(|e| e == "rs") {
            check(&path);
        }
    }
}

#[test]
fn commands_are_documented() {
    let parts = parts();
    let main = &parts.iter().find(|part| part.name == "main").unwrap().code;
    let mut commands = BTreeSet::new();
    for line in main.lines() {
        // The cases of `$command`; those inside of them are indented further.
        let Some((words, _)) = line.strip_prefix('\t').and_then(|line| line.split_once(')')) else {
            continue;
        };
        let words: Vec<&str> = words.split(" | ").collect();
        if words.iter().all(|word| !word.is_empty() && word.chars().all(is_key)) {
            commands.extend(words.iter().map(ToString::to_string));
        }
    }
    assert!(commands.len() > 15, "{commands:?}");
    assert_eq!(commands, first_column(below(&page(), "## Commands")));
}

/// Every function that the page calls a writer or a reader exists.
#[test]
fn functions_of_the_page_exist() {
    let functions: BTreeSet<String> = parts().into_iter().map(|part| part.name).collect();
    let page = page();
    for line in below(&page, "## Sections").lines().filter_map(|line| line.strip_prefix("Writer: ")) {
        for name in quoted(line.split(". Reader").next().unwrap()) {
            assert!(functions.contains(name), "no function `{name}`");
        }
    }
    let rows = below(&page, "## Files").lines().filter(|line| line.starts_with("| "));
    for row in rows.filter(|row| !row.starts_with("| File |")) {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let people = &columns[1..columns.len() - 1];
        for name in people.iter().flat_map(|column| quoted(column)) {
            let known = functions.contains(name) || name.starts_with("kvmfw ") || name.ends_with("own");
            assert!(known, "no function `{name}`: {row}");
        }
    }
}

/// Headings of the tables of files, and what the paths below them begin with here.
const PLACES: [(&str, char); 5] = [
    ("### In `/run/kvmfw/RUN`", 'R'),
    ("### In `/var/lib/kvmfw/txn/RUN`", 'T'),
    ("### In `/var/lib/kvmfw`", 'V'),
    ("### In `/etc/kvmfw`", 'E'),
    ("### In `/etc/kvmfw/generations/N`", 'G'),
];

/// The files of the page: the place, a slash, the path; capital letters stand for any name, and are `*` here.
fn files_of_page() -> BTreeSet<String> {
    let page = page();
    let mut files = BTreeSet::new();
    for (heading, place) in PLACES {
        for name in first_column(below(&page, heading)) {
            let mut path = format!("{place}/");
            for c in name.trim_end_matches('/').chars() {
                match c {
                    'A'..='Z' if path.ends_with('*') => {}
                    'A'..='Z' => path.push('*'),
                    _ => path.push(c),
                }
            }
            files.insert(path);
        }
    }
    assert!(files.len() > 100, "{files:?}");
    files
}

/// The path that begins here: variables and patterns are `*`.
fn path_at(text: &str) -> String {
    let mut path = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let next = rest[1..].chars().next().unwrap_or(' ');
        let mut skip = 1;
        match c {
            '"' if next == '/' || next == '$' || next == '.' => {}
            '*' => path.push('*'),
            '[' => {
                skip = rest.find(']').map_or(1, |at| at + 1);
                path.push('*');
            }
            '$' => {
                let closes = |open: char, close: char| {
                    let mut depth = 0;
                    rest.char_indices().skip(1).find_map(|(at, c)| {
                        depth += i32::from(c == open) - i32::from(c == close);
                        (depth == 0).then_some(at + 1)
                    })
                };
                skip = match next {
                    '{' => closes('{', '}').unwrap_or(2),
                    '(' => closes('(', ')').unwrap_or(2),
                    c if c.is_ascii_alphabetic() => {
                        1 + rest[1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count()
                    }
                    _ => 2,
                };
                path.push('*');
            }
            c if c.is_ascii_alphanumeric() || "/._-%+".contains(c) => path.push(c),
            _ => break,
        }
        rest = &rest[skip..];
    }
    while path.contains("**") {
        path = path.replace("**", "*");
    }
    path.trim_end_matches('/').to_owned()
}

/// Variables of the part that stand for a path or for each of some words are put in, so that paths are whole.
fn with_variables(code: &str) -> Vec<String> {
    let mut code = code.to_owned();
    for name in ["dir", "kept", "from", "file", "script"] {
        let Some(at) = code.find(&format!("{name}=$")) else { continue };
        let value: String = code[at + name.len() + 1..].chars().take_while(|c| !c.is_whitespace()).collect();
        if ["$T/", "$R/", "$VAR/", "$ETC/"].iter().any(|place| value.starts_with(place)) {
            code = code.replace(&format!("\"${name}\"/"), &format!("{value}/"));
            code = code.replace(&format!("${name}/"), &format!("{value}/"));
        }
    }
    let mut all = Vec::new();
    for line in code.lines() {
        let name = ["mark", "kept"].into_iter().find(|name| line.contains(&format!("/${name}\"")));
        let each = name.and_then(|name| {
            let start = format!("for {name} in ");
            let words = code[..code.find(line)? + line.len()].rsplit(&start).next()?.split(';').next()?;
            let words: Vec<&str> = words.split(' ').collect();
            words.iter().all(|word| word.chars().all(|c| is_key(c) || c == '.')).then_some((name, words))
        });
        match each {
            Some((name, words)) => {
                all.extend(words.iter().map(|word| line.replace(&format!("${name}"), word)));
            }
            None => all.push(line.to_owned()),
        }
    }
    all
}

/// The files that the scripts name, as in [`files_of_page`]. A place `?` is any.
fn files_of_scripts() -> BTreeMap<String, String> {
    let places = [
        ("$ETC/current/", 'G'),
        ("$ETC/generations/*/", 'G'),
        ("$VAR/txn/*/", 'T'),
        ("$ETC/*/", 'G'),
        ("$RUN/*/", 'R'),
        ("$folder/", '?'),
        ("$G/", 'G'),
        ("$T/", 'T'),
        ("$R/", 'R'),
        ("$VAR/", 'V'),
        ("$ETC/", 'E'),
    ];
    let mut files = BTreeMap::new();
    for part in parts() {
        for line in with_variables(&part.code) {
            let mut found = Vec::new();
            for name in ["$T", "$R", "$VAR", "$ETC", "$RUN", "$G", "$folder"] {
                for (at, _) in line.match_indices(name) {
                    let rest = &line[at + name.len()..];
                    let rest = rest.strip_prefix('"').filter(|rest| rest.starts_with('/')).unwrap_or(rest);
                    if rest.starts_with('/') {
                        found.push(format!("{name}{}", path_at(rest)));
                    }
                }
            }
            // What is copied has its name there too.
            let target = ["\"$G/\"", "\"$R/\"", "\"$G/adopted/\""].into_iter().find(|to| line.contains(*to));
            if let Some(target) = target.filter(|_| line.contains("cp ")) {
                let to = target.trim_matches('"');
                let names: Vec<String> = found
                    .iter()
                    .filter(|path| !to.starts_with(path.as_str()))
                    .filter_map(|path| Some(format!("{to}{}", path.rsplit_once('/')?.1)))
                    .collect();
                found.extend(names);
            }
            for path in found {
                let Some((start, place)) = places.iter().find(|(start, _)| path.starts_with(start)) else {
                    continue;
                };
                let path = path[start.len()..].trim_end_matches('/');
                if !path.is_empty() {
                    files.insert(format!("{place}/{path}"), part.name.clone());
                }
            }
        }
    }
    files
}

/// The files that the controller sends with a transaction.
fn files_of_controller() -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut add = |text: &str, before: &str, folder: &str| {
        for rest in text.split(before).skip(1) {
            let Some((name, _)) = rest.split_once('"') else { continue };
            let mut path = format!("T/{folder}");
            let mut braces = false;
            for c in name.chars() {
                match c {
                    '{' => path.push('*'),
                    '}' => {}
                    _ if braces => {}
                    _ => path.push(c),
                }
                braces = c == '{' || braces && c != '}';
            }
            files.insert(path);
        }
    };
    each_source(Path::new("src"), &mut |path| {
        let text = fs::read_to_string(path).unwrap();
        add(&text, "files.push((\"", "");
        if path.ends_with("plan/transaction_files.rs") {
            add(&text, "put(\"", "new/");
            add(&text, "put(&format!(\"", "new/");
        }
        if path.ends_with("src/host.rs") {
            let list = text.split("const WHOLE").nth(1).unwrap().split("];").next().unwrap();
            add(list, "    \"", "");
        }
    });
    assert!(files.len() > 30, "{files:?}");
    files
}

/// Whether two paths can be one: `*` stands for any name or part of a name in either.
fn fits(one: &str, other: &str) -> bool {
    fn glob(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => {
                (0..=text.len()).take_while(|n| !text[..*n].contains(&b'/')).any(|n| glob(rest, &text[n..]))
            }
            Some((c, rest)) => text.split_first().is_some_and(|(t, text)| t == c && glob(rest, text)),
        }
    }
    one == other || glob(one.as_bytes(), other.as_bytes()) || glob(other.as_bytes(), one.as_bytes())
}

/// Folders that hold a place of their own, and the run that is none.
const FOLDERS: [&str; 3] = ["E/generations", "V/txn", "V/txn/none"];

/// Whether a path names a file more closely than by its folder.
fn is_named(path: &str) -> bool {
    !path.ends_with("/*") && !FOLDERS.contains(&path)
}

#[test]
fn files_are_documented() {
    let (page, scripts, controller) = (files_of_page(), files_of_scripts(), files_of_controller());
    let mut bad = Vec::new();
    let fits_at = |path: &str, documented: &str| {
        let (place, documented_place) = (&path[..1], &documented[..1]);
        // A rollback runs with T set to R.
        let same = place == documented_place || place == "?" || place == "T" && documented_place == "R";
        let inside = documented[1..].starts_with(&format!("{}/", &path[1..]));
        same && (fits(&path[1..], &documented[1..]) || inside)
    };
    let named = scripts.iter().map(|(path, part)| (path.as_str(), part.as_str()));
    let sent = controller.iter().map(|path| (path.as_str(), "the controller"));
    for (path, part) in named.chain(sent).filter(|(path, _)| is_named(path)) {
        // Files of a folder that is copied as a whole are documented where they come from.
        let copied = path.starts_with("R/new/") || path.starts_with("R/pre/");
        if !copied && !page.iter().any(|documented| fits_at(path, documented)) {
            bad.push(format!("{part} names {path}, and the page does not"));
        }
    }
    for documented in &page {
        let used = scripts.keys().chain(&controller).any(|path| {
            let same = path.starts_with('?') || path[..1] == documented[..1];
            let fits = if is_named(path) {
                fits(&path[1..], &documented[1..])
            } else {
                path[1..] == documented[1..]
            };
            same && fits
        });
        if !used {
            bad.push(format!("the page names {documented}, and no script does"));
        }
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

//! Pages of the book that are made from what the program says of itself.

use crate::generate::generate;
use std::fs;

/// The reference of the stream, from the schema that the program has of it; `UPDATE_EXPECT=1` rewrites it.
#[test]
fn the_books_events_are_those_of_the_program() {
    let schema: serde_json::Value = serde_json::from_str(&generate(&["schema", "events"])).unwrap();
    let page = events_page(&schema);
    let events = schema["oneOf"].as_array().unwrap().len();
    assert!(events > 5 && page.matches("\n## `").count() == events, "{page}");
    assert!(!page.contains("|---|---|---|---|\n\n"), "an event without keys: {page}");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(EVENTS, &page).unwrap();
    }
    assert!(
        fs::read_to_string(EVENTS).unwrap_or_default() == page,
        "{EVENTS} is old: UPDATE_EXPECT=1 rewrites it"
    );
}

const EVENTS: &str = "book/src/events.md";

fn events_page(schema: &serde_json::Value) -> String {
    let mut page = "# Events\n\nThe lines of `--format jsonl` and of a run's `events.jsonl`, made from the program's own \
                    [JSON Schema](schema/events.json). Each line also has `time`.\nHow they are used: [Formats](formats.md#events).\n"
        .to_owned();
    for event in schema["oneOf"].as_array().unwrap() {
        let name = event["properties"]["event"]["const"].as_str().unwrap();
        page += &format!("\n## `{name}`\n\n{}\n", sentence(event));
        let required = event["required"].as_array().unwrap();
        let keys: Vec<_> =
            event["properties"].as_object().unwrap().iter().filter(|(k, _)| *k != "event").collect();
        page += "\n| key | type | always | |\n|---|---|---|---|\n";
        for (key, value) in keys {
            let always = if required.iter().any(|r| r == key) { "yes" } else { "" };
            page += &format!("| `{key}` | {} | {always} | {} |\n", type_of(value), sentence(value));
        }
    }
    page + "\nA *Status* is one of those of the [JSON document](json.md), a *ChangeEntry* and a *WarningEntry* an entry of its `changes` \
            and `warnings`.\n"
}

fn sentence(value: &serde_json::Value) -> String {
    value["description"].as_str().unwrap_or_default().replace('\n', " ")
}

const JSON: &str = "book/src/json.md";

/// Every key that `plan --format json` and its like print stands in the book, in the words of the schema.
#[test]
fn the_page_of_json_has_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&generate(&["schema", "output"])).unwrap();
    let keys = format!("{KEYS}{}", keys(&schema));
    let page = fs::read_to_string(JSON).unwrap();
    let (before, after) = page.split_once(KEYS).unwrap_or((&page, ""));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(JSON, format!("{before}{keys}")).unwrap();
        return;
    }
    assert!(format!("{KEYS}{after}") == keys, "{JSON} is old: UPDATE_EXPECT=1 rewrites it");
}

const KEYS: &str = "## Every key\n\nOf `plan`, `apply`, `undo`, `bootstrap` and `show`, made from the program's own \
                    [JSON Schema](schema/output.json).\n";

fn keys(schema: &serde_json::Value) -> String {
    let mut text = table("Document", schema);
    for (name, definition) in schema["definitions"].as_object().unwrap() {
        text += &match definition["oneOf"].as_array() {
            Some(words) => word_list(name, definition, words),
            None => table(name, definition),
        };
    }
    text
}

fn table(name: &str, of: &serde_json::Value) -> String {
    let required = of["required"].as_array().unwrap();
    let mut text =
        format!("\n### {name}\n\n{}\n\n| key | type | always | |\n|---|---|---|---|\n", sentence(of));
    for (key, value) in of["properties"].as_object().unwrap() {
        let always = if required.iter().any(|r| r == key) { "yes" } else { "" };
        assert_ne!(sentence(value), "", "{name}.{key} is not described");
        text += &format!("| `{key}` | {} | {always} | {} |\n", type_of(value), sentence(value));
    }
    text
}

/// A type that is one of several words; some of them may stand together, described by nothing.
fn word_list(name: &str, of: &serde_json::Value, words: &[serde_json::Value]) -> String {
    let mut text = format!("\n### {name}\n\n{}\n\n| word | |\n|---|---|\n", sentence(of));
    for word in words {
        let several = word["enum"].as_array().cloned().unwrap_or_default();
        for one in several.iter().chain(word.get("const")) {
            assert_ne!(sentence(word), "", "{name} {one} is not described");
            text += &format!("| `{}` | {} |\n", one.as_str().unwrap(), sentence(word));
        }
    }
    text
}

/// The type of a key in one word.
fn type_of(value: &serde_json::Value) -> String {
    let named = |v: &serde_json::Value| {
        v["$ref"]
            .as_str()
            .or(v["allOf"][0]["$ref"].as_str())
            .and_then(|r| r.rsplit('/').next())
            .map(str::to_owned)
    };
    if let Some(name) = named(value) {
        return name;
    }
    let word = match &value["type"] {
        serde_json::Value::Array(several) => several[0].as_str(),
        one => one.as_str(),
    };
    match word {
        Some("array") => {
            format!("list of {}", named(&value["items"]).unwrap_or_else(|| "strings".to_owned()))
        }
        Some(word) => word.to_owned(),
        None => panic!("a key of no type: {value}"),
    }
}

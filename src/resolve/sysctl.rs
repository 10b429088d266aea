//! sysctl.d files of a host, merged.

use super::merge::{CompileReport, MergeSlot};
use crate::inventory::DeclaredResources;
use crate::problem::{Place, Problem};
use crate::resource::sysctl::{SysctlEntry, SysctlFile, SysctlKey};
use std::collections::{BTreeMap, HashMap};

/// The keys of a file in the order in which they are first stated.
type FileEntries<'a> = Vec<(&'a SysctlKey, MergeSlot<&'a str>)>;

/// Merges the files key by key.
pub fn files(sources: &[(u32, &DeclaredResources)], out: &mut CompileReport) -> BTreeMap<String, SysctlFile> {
    let mut merged: BTreeMap<&str, (&Place, FileEntries<'_>)> = BTreeMap::new();
    for (rank, resources) in sources {
        for file in &resources.sysctl {
            let (_, entries) =
                merged.entry(&file.name.value).or_insert_with(|| (&file.name.place, Vec::new()));
            for (key, value) in &file.entries {
                let at = entries.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                    entries.push((key, MergeSlot::default()));
                    entries.len() - 1
                });
                entries[at].1.offer(*rank, &value.value, &value.place);
            }
        }
    }
    let mut files = BTreeMap::new();
    let mut seen: HashMap<&SysctlKey, (&str, Place)> = HashMap::new();
    for (name, (place, entries)) in merged {
        let mut file = SysctlFile { name: name.to_owned(), entries: Vec::new(), origin: place.origin() };
        for (key, slot) in entries {
            let Some((value, place)) = slot.take(|| format!("`{key}` in file `{name}`"), out) else {
                continue;
            };
            if let Some((other, first)) = seen.insert(key, (name, place.clone())) {
                out.problems.push(
                    Problem::new(
                        "duplicate-sysctl",
                        format!("`{key}` is in two declared files, `{other}` and `{name}`"),
                    )
                    .at_place(&place)
                    .help(format!(
                        "the other definition is at {first}; which file wins depends on the tool that reads \
                         them"
                    )),
                );
            }
            out.fact(|| format!("sysctl.{name}.{key}"), || value.to_owned(), &place);
            file.entries.push(SysctlEntry {
                key: key.clone(),
                value: value.to_owned(),
                origin: place.origin(),
            });
        }
        if !file.entries.is_empty() {
            files.insert(name.to_owned(), file);
        }
    }
    files
}

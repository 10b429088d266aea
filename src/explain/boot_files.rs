//! The files that load rules of others at boot, to say where a live rule comes from.

use crate::resource::iptables::Family;

/// Rules in boot files, by family, as `-A CHAIN …`.
#[derive(Clone, Debug, Default)]
pub(super) struct BootFiles {
    rules: Vec<(Family, String, String, u32)>,
}

impl BootFiles {
    /// Reads the probe's section: `>PATH`, then `LINE:TEXT`.
    pub(super) fn parse(text: &str) -> Self {
        let mut files = Self::default();
        let mut path = "";
        let mut table = "filter".to_owned();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('>') {
                path = name;
                continue;
            }
            let Some((number, rule)) = line.split_once(':') else { continue };
            let Ok(number) = number.parse() else { continue };
            if let Some(name) = rule.strip_prefix('*') {
                name.trim().clone_into(&mut table);
            } else if rule.starts_with("-A ") {
                let v6 = path.ends_with(".v6") || path.ends_with("ip6tables");
                let family = if v6 { Family::V6 } else { Family::V4 };
                files.rules.push((family, path.to_owned(), format!("{table} {}", plain(rule)), number));
            }
        }
        files
    }

    /// The first `file:line` that loads this rule.
    pub(super) fn find(&self, family: Family, table: &str, chain: &str, rule: &str) -> Option<String> {
        let wanted = plain(&format!("{table} -A {chain} {rule}"));
        let mut hits = self.rules.iter().filter(|(of, _, text, _)| *of == family && *text == wanted);
        hits.next().map(|(_, path, _, line)| format!("{path}:{line}"))
    }
}

/// White space and the order of state names do not count.
fn plain(rule: &str) -> String {
    let words: Vec<String> = rule
        .split_whitespace()
        .map(|word| match word.contains("ESTABLISHED") && word.contains(',') {
            true => {
                let mut states: Vec<&str> = word.split(',').collect();
                states.sort_unstable();
                states.join(",")
            }
            false => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

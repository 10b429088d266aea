//! The framing of answers: `\n@NONCE name\n` starts a section, everything before the first one is a
//! login banner.

use crate::protocol::SectionName;
use std::collections::BTreeMap;

/// The sections of one answer by name.
#[derive(Debug, Default)]
pub struct ProbeSections<'a> {
    by_name: BTreeMap<&'a str, &'a str>,
}

impl<'a> ProbeSections<'a> {
    /// Splits an answer at the nonce. Linear; garbage gives no sections.
    pub fn split(text: &'a str, nonce: &str) -> Self {
        let mark = format!("\n@{nonce} ");
        let mut by_name = BTreeMap::new();
        // The first line of an answer may be a section already.
        let mut rest = match text.strip_prefix(&mark[1..]) {
            Some(rest) => Some(rest),
            None => text.find(&mark).map(|at| &text[at + mark.len()..]),
        };
        while let Some(section) = rest {
            let end = section.find(&mark);
            let body = end.map_or(section, |at| &section[..at]);
            rest = end.map(|at| &section[at + mark.len()..]);
            let (name, body) = body.split_once('\n').unwrap_or((body, ""));
            by_name.insert(name.trim_end(), body);
        }
        Self { by_name }
    }

    /// The text of a section.
    pub fn get(&self, name: SectionName) -> Option<&'a str> {
        self.by_name.get(name.as_str()).copied()
    }

    /// All sections: name and text.
    pub fn all(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.by_name.iter().map(|(name, text)| (*name, *text))
    }

    /// The sections of this name that a number follows: number and text.
    pub fn numbered(&self, name: SectionName) -> impl Iterator<Item = (u32, &'a str)> + '_ {
        self.all().filter_map(move |(section, text)| {
            Some((section.strip_prefix(name.as_str())?.strip_prefix(' ')?.parse().ok()?, text))
        })
    }

    /// The values of `key=` lines of a section, in order.
    pub fn values(&self, section: SectionName, key: &str) -> impl Iterator<Item = &'a str> {
        let key = format!("{key}=");
        self.get(section).unwrap_or("").lines().filter_map(move |line| line.strip_prefix(key.as_str()))
    }

    /// The first value of a key, if it is not empty.
    pub fn value(&self, section: SectionName, key: &str) -> Option<&'a str> {
        self.values(section, key).next().filter(|v| !v.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol;

    #[test]
    fn banners_and_content_are_not_sections() {
        let text = "Welcome!\n@other host\n\n@n1 host\nkernel=6\nmissing=ip\nmissing=awk\n\n@n1 live4\n*filter\n@n2 x\n\n@n1 end\n";
        let s = ProbeSections::split(text, "n1");
        assert_eq!(s.value(protocol::HOST, "kernel"), Some("6"));
        assert_eq!(s.values(protocol::HOST, "missing").collect::<Vec<_>>(), ["ip", "awk"]);
        assert_eq!(s.get(protocol::IPTABLES.live), Some("*filter\n@n2 x\n"));
        assert_eq!(s.get(protocol::END), Some(""));
        assert!(ProbeSections::split("garbage", "n1").get(protocol::HOST).is_none());
    }
}

//! The sets of ipset that a host has.

use super::{ObserveError, ProbeSections};
use crate::protocol;
use crate::resource::ipset::{LiveSet, plain_member, sort};
use std::collections::BTreeMap;

/// What is known of the sets of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSets {
    /// Whether the host was asked for them: it is where sets are wanted, or were applied.
    pub asked: bool,
    /// Whether it has the tool.
    pub tool: bool,
    /// Sets by name.
    pub live: BTreeMap<String, LiveSet>,
    /// The host's words, where it does not take the sets that are wanted.
    pub refused: Option<String>,
}

impl ObservedSets {
    /// Reads the sections of an answer.
    pub(super) fn parse(sections: &ProbeSections<'_>) -> Result<Self, ObserveError> {
        let Some(text) = sections.get(protocol::SETS) else { return Ok(Self::default()) };
        let mut sets = Self { asked: true, tool: true, ..Self::default() };
        let mut ended = false;
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.split_once(' ') {
                Some(("create", rest)) => {
                    let (name, options) = rest.split_once(' ').unwrap_or((rest, ""));
                    sets.live.insert(name.to_owned(), LiveSet::parse(options));
                }
                // Its members were asked for, also where there are none.
                Some(("members", name)) => {
                    if let Some(live) = sets.live.get_mut(name) {
                        live.members.get_or_insert_default();
                    }
                }
                Some(("add", rest)) => {
                    let (name, member) = rest.split_once(' ').unwrap_or((rest, ""));
                    if let Some(live) = sets.live.get_mut(name) {
                        live.members.get_or_insert_default().push(plain_member(member));
                    }
                }
                _ if line == "no tool" => sets.tool = false,
                _ if line == "unread" => {
                    let message = "/etc/kvmfw/current/sets, the sets of the generation that boots, cannot be read to its end";
                    return Err(ObserveError::Refused("unreadable-record".to_owned(), message.to_owned()));
                }
                _ => ended |= line == "#end",
            }
        }
        if !ended {
            let message = "the sets of this host cannot be read to their end".to_owned();
            return Err(ObserveError::Refused("unreadable".to_owned(), message));
        }
        for members in sets.live.values_mut().filter_map(|live| live.members.as_mut()) {
            sort(members);
        }
        let dry = sections.get(protocol::DRY_SETS).map(|text| text.split_once('\n').unwrap_or((text, "")));
        sets.refused = dry.filter(|(rc, _)| *rc != "rc=0").map(|(_, words)| {
            let words: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            words.join("; ")
        });
        Ok(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_only_where_they_were_asked_for() {
        let text = "\n@n sets\ncreate a hash:ip family inet hashsize 64 maxelem 9\nmembers a\nadd a 192.0.2.2 timeout 0\nadd a 192.0.2.1\n\
                    create b hash:net family inet6 timeout 60\n#end\n\n@n dry_sets\nrc=1\nipset v7: no\n\n@n end\n";
        let sets = ObservedSets::parse(&ProbeSections::split(text, "n")).unwrap();
        assert_eq!(sets.live["a"].members.as_deref().unwrap(), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!((sets.live["b"].members.as_ref(), sets.live["b"].has_timeouts), (None, true));
        assert_eq!(sets.refused.as_deref(), Some("ipset v7: no"));
        let cut = text.replace("#end\n", "");
        assert!(
            ObservedSets::parse(&ProbeSections::split(&cut, "n")).is_err(),
            "half of them must not pass for all"
        );
    }
}

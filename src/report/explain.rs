//! Why, for people.

use super::{Style, counted, printable};
use crate::explain::{
    BridgeReport, FamilyReport, FinalVerdict, GuestRemedy, HookReport, HostExplanation, LogGroup, LogReport,
    LogSide, PacketReport, RulePlace,
};
use crate::resource::iptables::IpFamily;
use std::fmt::Write as _;

/// What was found out about one host.
pub fn explanation_text(found: &HostExplanation, style: Style) -> String {
    let mut out = String::new();
    let state = if found.state == "live" { "live state" } else { "desired state" };
    if !found.name.is_empty() {
        let _ = writeln!(out, "{}, {state}", style.strong(&printable(&found.name)));
    }
    if !found.bridges.is_empty() {
        found.bridges.iter().for_each(|bridge| bridge_text(bridge, style, &mut out));
    } else if found.packets.is_empty() && found.log.is_none() {
        out.push_str("  no bridges, so no guests to cut off\n");
    }
    found.packets.iter().for_each(|story| packet_text(story, style, &mut out));
    if let Some(log) = &found.log {
        log_text(log, style, &mut out);
    }
    if !found.remedies.is_empty() {
        let _ = writeln!(out, "\n{}", style.strong("Possible fixes"));
        let mut before = None;
        for remedy in &found.remedies {
            remedy_text(remedy, before, style, &mut out);
            before = Some(remedy);
        }
    }
    for other in &found.other_tables {
        let line = format!("  packets also pass this, which may drop them: {}", printable(other));
        let _ = writeln!(out, "{}", style.faint(&style.prose(&line)));
    }
    out
}

fn protocol(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

fn place(place: &RulePlace) -> String {
    let mut text = match place.chain.is_empty() {
        // What is not read is no rule: `nft table inet filter, which may drop it`.
        true => format!("{}, which {}", place.name(), place.text),
        false => format!("{} `{}`", place.name(), place.text),
    };
    match (&place.origin, place.owner) {
        (Some(origin), _) => {
            let _ = write!(text, " ({origin})");
        }
        (None, "others") => {}
        (None, owner) => {
            let _ = write!(text, " ({owner})");
        }
    }
    printable(&text)
}

fn bridge_text(bridge: &BridgeReport, style: Style, out: &mut String) {
    let ports: Vec<String> = bridge
        .ports
        .iter()
        .map(|port| match &port.guest {
            Some(guest) => format!("{} ({guest})", port.name),
            None if port.kind == "guest" => port.name.clone(),
            None => format!("{} ({})", port.name, port.kind),
        })
        .collect();
    let addresses =
        if bridge.addresses.is_empty() { String::new() } else { format!("  {}", bridge.addresses.join(" ")) };
    let _ = writeln!(out, "\n  {}{}", style.strong(&printable(&bridge.name)), printable(&addresses));
    let ports = if ports.is_empty() { "no ports".to_owned() } else { ports.join(", ") };
    let _ = writeln!(out, "    ports: {}", printable(&ports));
    bridge.families.iter().for_each(|family| family_text(family, style, out));
    if bridge.families.iter().any(|family| family.filtered) {
        let line = match bridge.tagged {
            true => "    frames with a VLAN tag meet the same rules: bridge-nf-filter-vlan-tagged is 1",
            false => "    frames with a VLAN tag meet no rule: bridge-nf-filter-vlan-tagged is 0",
        };
        let _ = writeln!(out, "{}", style.faint(&style.prose(line)));
    }
}

fn family_text(story: &FamilyReport, style: Style, out: &mut String) {
    let name = protocol(story.family);
    let word = match (&story.blocked, &story.undecided) {
        (Some(_), _) => style.alarm("UNREACHABLE"),
        (None, Some(_)) => style.warn("UNKNOWN"),
        (None, None) => style.added("open"),
    };
    let sees = if story.filtered {
        "rules of the host see bridged frames"
    } else {
        "no rule of the host sees bridged frames"
    };
    let line = format!("    {name}  {word}  {sees}: {}", printable(&story.because));
    let _ = writeln!(out, "{}", style.prose(&line));
    if let Some(blocked) = &story.blocked {
        let (what, sample) = (blocked.dropped.join(", "), printable(&blocked.sample));
        let line = format!("          dropped: {what} (for example a {sample})");
        let _ = writeln!(out, "{}", style.prose(&line));
        let _ = writeln!(out, "{}", style.prose(&format!("          by {}", place(&blocked.by))));
    }
    if let Some(doubt) = &story.undecided {
        let (what, sample) = (doubt.kinds.join(", "), printable(&doubt.sample));
        let line = format!("          may be dropped: {what} (for example a {sample})");
        let _ = writeln!(out, "{}", style.prose(&line));
        let depends = match doubt.missing.is_empty() {
            true => String::new(),
            false => format!(", depending on {}", printable(&doubt.missing.join(", "))),
        };
        let line = format!("          by {}{depends}", place(&doubt.by));
        let _ = writeln!(out, "{}", style.prose(&line));
    }
}

fn packet_text(story: &PacketReport, style: Style, out: &mut String) {
    let route = &story.route;
    let _ = writeln!(out, "\n  {} over {}", style.strong(&printable(&story.packet)), protocol(story.family));
    let end = |name: &Option<String>, none: &str| name.clone().unwrap_or_else(|| none.to_owned());
    let way = match route.kind {
        "bridged" => format!(
            "bridged: {} → {} → {}",
            end(&route.input, "a port"),
            end(&route.bridge, "the bridge"),
            match &route.output {
                output if *output == route.bridge => "a port".to_owned(),
                output => end(output, "a port"),
            }
        ),
        "routed" => format!("routed: {} → {}", end(&route.input, "?"), end(&route.output, "?")),
        "to the host" => format!("to the host: by {}", end(&route.input, "?")),
        kind => format!("{kind}: by {}", end(&route.output, "?")),
    };
    let _ = writeln!(out, "    {}", printable(&way));
    for note in &route.notes {
        let _ = writeln!(out, "{}", style.faint(&style.prose(&format!("    {}", printable(note)))));
    }
    story.hooks.iter().for_each(|hop| hop_text(hop, style, out));
    let _ = writeln!(out, "{}", style.prose(&format!("  {}", verdict_text(&story.verdict, style))));
    if let Some(first) = story.common.first() {
        let line = format!("    give the port or the protocol with --to, for example --to {}:", first.to);
        let _ = writeln!(out, "{}", style.prose(&printable(&line)));
        for one in &story.common {
            let _ =
                writeln!(out, "      --to {:<24} {}", printable(&one.to), verdict_word(one.verdict, style));
        }
    }
}

fn hop_text(hop: &HookReport, style: Style, out: &mut String) {
    let title = format!("{}/{}", hop.table, hop.chain);
    let note = match &hop.note {
        Some(note) => note.clone(),
        None if hop.asked == 0 => String::new(),
        None if hop.asked == 1 => "1 rule evaluated".to_owned(),
        None => format!("{} rules evaluated", hop.asked),
    };
    let _ = writeln!(out, "    {title:<22} {}", style.faint(&printable(&note)));
    for met in &hop.rules {
        let indent = "  ".repeat(met.depth);
        let number = met.place.rule.map_or_else(|| "end".to_owned(), |rule| format!("{rule:>3}"));
        let sure = if met.sure { String::new() } else { format!("  may match: {}", met.missing.join(", ")) };
        let origin = met.place.origin.as_ref().map_or_else(String::new, |origin| format!("   # {origin}"));
        let chain = if met.depth > 0 { format!("{} ", met.place.chain) } else { String::new() };
        let text = format!("      {indent}{chain}{number}  {}", met.place.text);
        let text = match met.does {
            "drop" => style.removed(&printable(&text)),
            "accept" => style.added(&printable(&text)),
            _ => printable(&text),
        };
        let _ = writeln!(out, "{text}{}{}", style.warn(&printable(&sure)), style.faint(&printable(&origin)));
    }
}

fn verdict_word(verdict: &str, style: Style) -> String {
    match verdict {
        "dropped" => style.alarm("DROPPED"),
        "passes" => style.added("PASSES"),
        _ => style.warn("UNKNOWN"),
    }
}

fn verdict_text(verdict: &FinalVerdict, style: Style) -> String {
    let word = verdict_word(verdict.verdict, style);
    let by = verdict.by.as_ref().map_or_else(String::new, |by| format!(" by {}", place(by)));
    let because = verdict.because.as_ref().map_or_else(String::new, |because| format!(": {because}"));
    format!("{word}{}{}", by, printable(&because))
}

fn log_text(log: &LogReport, style: Style, out: &mut String) {
    let _ =
        writeln!(out, "  {}, {}", counted(log.packets, "logged packet"), counted(log.others, "other line"));
    log.groups.iter().for_each(|group| group_text(group, style, out));
}

fn side_text(side: &LogSide) -> String {
    let device = side.device.clone().unwrap_or_else(|| "the host".to_owned());
    match (&side.port, &side.guest) {
        (Some(port), Some(guest)) => format!("{port} ({guest})"),
        (Some(port), None) => port.clone(),
        (None, _) => device,
    }
}

fn group_text(group: &LogGroup, style: Style, out: &mut String) {
    let port = match (group.port, group.ports) {
        (Some(port), _) => format!(" port {port}"),
        (None, Some(ports)) => format!(" to {ports} more ports"),
        (None, None) => String::new(),
    };
    let bridge = group.bridge.as_ref().map_or_else(String::new, |bridge| format!(" on {bridge}"));
    let title = format!(
        "{}× {}{port} from {} to {}{bridge}",
        group.count,
        group.protocol,
        side_text(&group.from),
        side_text(&group.to)
    );
    let _ = writeln!(out, "\n  {}", style.strong(&printable(&title)));
    let _ = writeln!(out, "    for example {}", printable(&group.example));
    let by = match &group.rule {
        Some(rule) => format!("logged by {}", place(rule)),
        None => format!("logged as `{}`; no rule has this prefix", printable(group.prefix.trim_end())),
    };
    let _ = writeln!(out, "{}", style.prose(&format!("    {by}")));
    if let Some(live) = &group.live {
        let _ = writeln!(out, "{}", style.prose(&format!("    now        {}", verdict_text(live, style))));
    }
    if let Some(desired) = &group.desired {
        let same = group.live.as_ref().is_some_and(|live| live.verdict == desired.verdict);
        let words = if same { "the inventory does not change that" } else { "the inventory changes that" };
        let line = format!("    desired    {}   {}", verdict_text(desired, style), style.faint(words));
        let _ = writeln!(out, "{}", style.prose(&line));
    }
}

/// Leaves out what equals the remedy before.
fn remedy_text(remedy: &GuestRemedy, before: Option<&GuestRemedy>, style: Style, out: &mut String) {
    let mut say = |line: String| {
        let _ = writeln!(out, "{}", style.prose(&line));
    };
    say(format!("  {}  {}", style.strong(remedy.module), remedy.what));
    let same = before.filter(|b| (b.isolation, b.throughput) == (remedy.isolation, remedy.throughput));
    match same {
        Some(before) => say(format!("      isolation, cost: as with {}", before.module)),
        None => {
            say(format!("      isolation: {}", remedy.isolation));
            say(format!("      cost: {}", remedy.throughput));
        }
    }
    for trap in &remedy.traps {
        say(format!("      note: {}", printable(trap)));
    }
    for wrong in &remedy.wrong_here {
        say(format!("      {} {}", style.alarm("WRONG HERE:"), printable(wrong)));
    }
}

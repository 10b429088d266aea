//! A host as an SVG.

use super::bridges::{BridgeReport, FamilyReport, PortReport};
use super::drawing::{cloud, lines};
use std::fmt::Write as _;
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Heights and widths, in pixels.
const WIDTH: usize = 900;
const ROW: usize = 34;
const LINE: usize = 15;
const GAP: usize = 30;
const TOP: usize = 64;
/// Characters of a line in the box of a family.
const FITS: usize = 54;

/// The drawing of a host's bridges: guests and ports on the left, the bridge in the middle, on the right
/// what its frames pass, and where they die.
pub fn svg(host: &str, state: &str, bridges: &[BridgeReport]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for bridge in bridges {
        y += draw(bridge, y, &mut body) + GAP;
    }
    if bridges.is_empty() {
        text(&mut body, 40, TOP + 20, "", "no bridges");
        y += ROW + GAP;
    }
    let title = format!("{host} ({state})");
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>{0}</title>\n<style>.box{{fill:#eef2f7;stroke:#44546a}}.port{{fill:#fff;stroke:#44546a}}.bridge{{fill:#dbe7f5;\
         stroke:#1f4e79}}.open{{fill:#dff0d8;stroke:#2e7d32}}.dark{{fill:#fbd5d0;stroke:#b3261e}}.doubt{{fill:#fdf0c8;stroke:#9a6a00}}line{{stroke:#44546a;stroke-width:1.5}}.cut{{stroke:\
         #b3261e;stroke-width:3}}.maybe{{stroke:#9a6a00;stroke-dasharray:5 4}}.small{{font-size:11px;fill:#333}}.strong{{font-weight:bold}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#fff\"/>\n<text x=\"20\" y=\"34\" class=\"strong\" font-size=\"17\">{0}</text>\n{body}</svg>\n",
        escaped(&title)
    )
}

/// Draws one bridge from `y` on; returns its height.
fn draw(bridge: &BridgeReport, y: usize, out: &mut String) -> usize {
    // Names of keys and files stay whole.
    let options = Options::new(FITS)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    let wrapped =
        |line: String| textwrap::wrap(&line, &options).into_iter().map(String::from).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> =
        bridge.families.iter().map(|family| lines(family).into_iter().flat_map(wrapped).collect()).collect();
    let families = lines.iter().map(|lines| family_height(lines) + 8).sum();
    let height = (bridge.ports.len().max(1) * ROW).max(families);
    let middle = y + height / 2;
    rect(out, (350, y), (130, height), "bridge");
    let addresses = fitting(&bridge.addresses, (height - 30) / 14);
    let first = middle + 5 - 7 * addresses.len();
    text(out, 362, first, "strong", &bridge.name);
    for (n, address) in addresses.iter().enumerate() {
        text(out, 362, first + 16 + 14 * n, "small", address);
    }
    for (n, port) in bridge.ports.iter().enumerate() {
        draw_port(port, y + n * ROW, out);
    }
    let mut next = y;
    for (family, lines) in bridge.families.iter().zip(&lines) {
        draw_family(family, lines, next, out);
        next += family_height(lines) + 8;
    }
    height
}

/// So many lines of a list; where there are more, the last says how many.
fn fitting(list: &[String], room: usize) -> Vec<String> {
    let mut shown = list.to_vec();
    if list.len() > room {
        shown.truncate(room.saturating_sub(1));
        shown.push(format!("and {} more", list.len() - shown.len()));
    }
    shown
}

fn draw_port(port: &PortReport, y: usize, out: &mut String) {
    let who = match (port.kind, &port.guest) {
        (_, Some(guest)) => guest.as_str(),
        ("guest", None) => "guest",
        ("uplink", None) => "network",
        _ => "not yet there",
    };
    let line = y + (ROW - 8) / 2;
    rect(out, (20, y), (140, ROW - 8), "box");
    text(out, 30, line + 5, "", who);
    let _ = writeln!(out, "<line x1=\"160\" y1=\"{line}\" x2=\"200\" y2=\"{line}\"/>");
    rect(out, (200, y), (120, ROW - 8), "port");
    text(out, 210, line + 5, "", &port.name);
    let _ = writeln!(out, "<line x1=\"320\" y1=\"{line}\" x2=\"350\" y2=\"{line}\"/>");
}

fn family_height(lines: &[String]) -> usize {
    26 + LINE * lines.len()
}

fn draw_family(family: &FamilyReport, lines: &[String], y: usize, out: &mut String) {
    let height = family_height(lines);
    let line = y + height / 2;
    let (class, cut) = match (&family.blocked, &family.undecided) {
        (Some(_), _) => ("dark", "cut"),
        (None, Some(_)) => ("doubt", "maybe"),
        (None, None) => ("open", ""),
    };
    let _ = writeln!(out, "<line x1=\"480\" y1=\"{line}\" x2=\"540\" y2=\"{line}\" class=\"{cut}\"/>");
    if family.blocked.is_some() {
        for (from, to) in [(line - 8, line + 8), (line + 8, line - 8)] {
            let _ = writeln!(out, "<line x1=\"502\" y1=\"{from}\" x2=\"518\" y2=\"{to}\" class=\"cut\"/>");
        }
    }
    rect(out, (540, y), (340, height), class);
    text(out, 550, y + 17, "strong", &cloud(family));
    for (n, line) in lines.iter().enumerate() {
        text(out, 550, y + 34 + LINE * n, "small", line);
    }
}

fn rect(out: &mut String, at: (usize, usize), size: (usize, usize), class: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"4\" class=\"{class}\"/>",
        at.0, at.1, size.0, size.1
    );
}

/// What would run out of its box is cut; it stands whole when the mouse rests on it.
fn text(out: &mut String, x: usize, y: usize, class: &str, words: &str) {
    let fits = if x >= 540 { FITS } else { 18 };
    let shown: String = match words.chars().count() > fits {
        true => words.chars().take(fits - 1).chain(['…']).collect(),
        false => words.to_owned(),
    };
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}<title>{}</title></text>",
        escaped(&shown),
        escaped(words)
    );
}

/// Text from a host is text, never markup.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_stays_in_its_box() {
        let list = |n: usize| (0..n).map(|n| format!("192.0.2.{n}/24")).collect::<Vec<_>>();
        assert_eq!(fitting(&list(2), 3), list(2));
        assert_eq!(fitting(&list(9), 3), ["192.0.2.0/24", "192.0.2.1/24", "and 7 more"]);
    }

    #[test]
    fn names_are_text() {
        let port = |name: &str| PortReport {
            name: name.to_owned(),
            kind: "guest",
            guest: Some("<script>&".to_owned()),
        };
        let bridge = BridgeReport {
            name: "br\"0".to_owned(),
            addresses: Vec::new(),
            ports: vec![port("vnet0")],
            families: Vec::new(),
            tagged: false,
            arptables: false,
        };
        let drawn = svg("kvm1", "live", &[bridge]);
        assert!(drawn.contains("&lt;script&gt;&amp;") && !drawn.contains("<script>"), "{drawn}");
        assert!(drawn.contains("br&quot;0") && drawn.ends_with("</svg>\n"), "{drawn}");
    }
}

//! A host as a Mermaid flowchart.

use super::bridges::{BridgeReport, FamilyReport};
use super::drawing::{cloud, lines};
use std::fmt::Write as _;

/// The drawing of a host's bridges: ports, guests, what their frames pass, and where they die.
pub fn mermaid(host: &str, state: &str, bridges: &[BridgeReport]) -> String {
    let mut out = format!("flowchart LR\n  subgraph host[\"{} ({state})\"]\n", quoted(host));
    let mut links = String::new();
    let (mut blocked, mut doubt) = (Vec::new(), Vec::new());
    for (n, bridge) in bridges.iter().enumerate() {
        let _ = writeln!(out, "    b{n}[\"{}\"]", quoted(&bridge.name));
        for (p, port) in bridge.ports.iter().enumerate() {
            let _ = writeln!(out, "    b{n}p{p}([\"{}\"])", quoted(&port.name));
            let _ = writeln!(links, "  b{n}p{p} --- b{n}");
            if port.kind == "guest" {
                let name = port.guest.as_deref().unwrap_or("guest");
                let _ = writeln!(links, "  b{n}g{p}[/\"{}\"/] --- b{n}p{p}", quoted(name));
            } else if port.kind == "uplink" {
                let _ = writeln!(links, "  b{n}g{p}((\"network\")) --- b{n}p{p}");
            }
        }
        for (f, family) in bridge.families.iter().enumerate() {
            let _ = writeln!(out, "    b{n}f{f}[[\"{}\"]]", quoted(&words(family)));
            let node = format!("b{n}f{f}");
            let arrow = match (&family.blocked, &family.undecided) {
                (Some(_), _) => "--x",
                (None, Some(_)) => "-.->",
                (None, None) => "-->",
            };
            let _ = writeln!(links, "  b{n} {arrow} {node}");
            match (&family.blocked, &family.undecided) {
                (Some(_), _) => blocked.push(node),
                (None, Some(_)) => doubt.push(node),
                (None, None) => {}
            }
        }
    }
    out.push_str("  end\n");
    out.push_str(&links);
    for (class, nodes, colours) in
        [("dark", blocked, "fill:#fbd5d0,stroke:#b3261e"), ("doubt", doubt, "fill:#fdf0c8,stroke:#9a6a00")]
    {
        if !nodes.is_empty() {
            let _ =
                writeln!(out, "  classDef {class} {colours},color:#000\n  class {} {class}", nodes.join(","));
        }
    }
    out
}

fn words(family: &FamilyReport) -> String {
    format!("{}<br/>{}", cloud(family), lines(family).join("<br/>"))
}

/// Mermaid ends a text at a quote, and reads `#` as the start of an entity.
fn quoted(text: &str) -> String {
    text.replace('#', "#35;").replace('"', "#quot;").replace(['\n', '`'], " ")
}

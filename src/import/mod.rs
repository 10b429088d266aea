//! IMPORT: what is on a host, said as an inventory says it. Rules and files of programs that write them
//! again themselves are left out, and a comment says whose they are.
//!
//! What is printed loads, and adopted it changes no verdict: chains keep their rules in their order, and
//! where rules of others stand before ours the hook is told to stay behind them.

mod bridges;
mod rules;
mod sets;
mod settings;
mod sysctl;

pub use sysctl::keys;

use crate::characters::is_harmless;
use crate::host_state::Observed;
use crate::inventory::{BecomeMethod, HostConnection, quoted};
use std::fmt::Write as _;

/// The inventory of one host as it was observed; `name` is its name there.
///
/// The values of [`keys`] have to be among what was observed.
pub fn yaml(name: &str, connection: &HostConnection, observed: &Observed) -> String {
    let mut text = format!(
        "# The present state of {name} as an inventory. Nothing was changed on the host.\n\
         # Save this, for example as inventories/{name}.yaml; `kvmfw plan --adopt` then shows what kvmfw would adopt.\n"
    );
    if let Some(inventory) = &observed.state.inventory {
        let generation = observed.state.generation.unwrap_or_default();
        let line = format!(
            "The inventory `{inventory}` manages this host (generation {generation}): managed resources are \
             omitted here."
        );
        comment(0, &line, &mut text);
    }
    for manager in &observed.other_filters.managers {
        let name = manager.split(' ').next().unwrap_or_default();
        let line = format!(
            "{name} loads its own rules on this host; kvmfw plans rules only after it is \
            disabled."
        );
        comment(0, &line, &mut text);
    }
    let _ = writeln!(text, "hosts:\n  {}:", quoted(name));
    let before = text.len();
    reach(name, connection, &mut text);
    let rules = rules::RuleImport::new(observed);
    rules.unmanaged_chains(&mut text);
    rules.extensions(&mut text);
    sysctl::write(observed, &mut text);
    bridges::write(observed, &mut text);
    sets::write(observed, &mut text);
    rules.write(&mut text);
    // A host must be a map, also where there is nothing to say but comments.
    if text[before..].lines().all(|line| line.trim_start().starts_with('#')) {
        text.insert_str(before - 1, " { }");
    }
    text
}

fn reach(name: &str, connection: &HostConnection, text: &mut String) {
    if connection.address != name {
        let _ = writeln!(text, "    address: {}", quoted(&connection.address));
    }
    let mut ssh = Vec::new();
    ssh.extend(connection.user.iter().map(|user| format!("user: {}", quoted(user))));
    if connection.become_root == BecomeMethod::Sudo {
        ssh.push("become: sudo".to_owned());
    }
    ssh.extend(connection.port.iter().map(|port| format!("port: {port}")));
    for (key, path) in
        [("identity_file", &connection.identity_file), ("known_hosts", &connection.known_hosts)]
    {
        ssh.extend(path.iter().map(|path| format!("{key}: {}", quoted(&path.to_string_lossy()))));
    }
    ssh.extend(connection.jump.iter().map(|jump| format!("jump: {}", quoted(jump))));
    let options: Vec<String> = connection
        .options
        .iter()
        .map(|(name, value)| format!("{}: {}", quoted(name), quoted(value)))
        .collect();
    if !options.is_empty() {
        ssh.push(format!("options: {{ {} }}", options.join(", ")));
    }
    if !ssh.is_empty() {
        let _ = writeln!(text, "    ssh: {{ {} }}", ssh.join(", "));
    }
}

/// A line of a comment: what came from the host can neither end it nor do anything to a terminal.
fn comment(indent: usize, line: &str, text: &mut String) {
    let line: String = line.chars().map(|c| if is_harmless(c) { c } else { '?' }).collect();
    let _ = writeln!(text, "{:indent$}# {line}", "");
}

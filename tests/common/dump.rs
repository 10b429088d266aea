//! Dumps of a host's state, compared.

/// Fails with the lines that differ between two dumps.
///
/// A table of legacy iptables that was used once stays registered until the network namespace
/// goes; empty and with all policies at ACCEPT it decides nothing and counts as absent.
#[track_caller]
pub fn same(before: &str, after: &str, what: &str) {
    let (before, after) = (without_empty_tables(before), without_empty_tables(after));
    if before == after {
        return;
    }
    let gone = before.iter().filter(|l| !after.contains(l)).map(|l| format!("- {l}\n"));
    let new = after.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}\n"));
    panic!("{what}: the state differs\n{}", gone.chain(new).collect::<String>());
}

/// The lines of a dump without legacy tables that decide nothing; see [`same`].
pub fn without_empty_tables(dump: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut table: Vec<&str> = Vec::new();
    let mut legacy = false;
    for line in dump.lines() {
        if line.starts_with("== ") {
            legacy = line.ends_with("-legacy");
        }
        if line.starts_with('*') || !table.is_empty() {
            table.push(line);
            if line == "COMMIT" {
                let idle = |l: &&str| l.starts_with(['*', 'C']) || l.ends_with(" ACCEPT");
                if !(legacy && table.iter().all(idle)) {
                    lines.append(&mut table);
                }
                table.clear();
            }
        } else {
            lines.push(line);
        }
    }
    lines
}

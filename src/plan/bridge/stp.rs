//! The order of spanning tree and its timers.

/// The kernel takes a forward delay below 2 s only while STP is off: so off comes before the delay,
/// and on after it.
pub(super) fn in_order(lines: &mut Vec<String>) {
    for at in 0..lines.len() {
        let Some((bridge, state)) = lines[at].split_once(" stp_state ") else { continue };
        let delay = format!("{bridge} forward_delay ");
        let to = match state {
            "0" => lines[..at].iter().position(|l| l.starts_with(&delay)),
            _ => lines[at..].iter().rposition(|l| l.starts_with(&delay)).map(|after| at + after),
        };
        if let Some(to) = to {
            let line = lines.remove(at);
            lines.insert(to, line);
        }
    }
}

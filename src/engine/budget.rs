//! Numbers of hosts, as options of a run state them.

use std::str::FromStr;

/// A number of hosts, or a share of the selected hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// A number.
    Hosts(usize),
    /// A share in percent, rounded up.
    Percent(u8),
}

impl Budget {
    /// The number of hosts among `hosts`.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Budget::Hosts(n) => n,
            Budget::Percent(p) => (hosts * usize::from(p)).div_ceil(100),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a number of hosts or a percentage like `10%`");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<u8>() {
                Ok(p @ 0..=100) => Ok(Budget::Percent(p)),
                _ => Err(bad()),
            },
            None => text.parse().map(Budget::Hosts).map_err(|_| bad()),
        }
    }
}

/// Reads `1,10%,100%`.
pub fn parse_batches(text: &str) -> Result<Vec<Budget>, String> {
    let batches: Vec<Budget> = text.split(',').map(|b| b.trim().parse()).collect::<Result<_, _>>()?;
    if batches.iter().any(|b| matches!(b, Budget::Hosts(0) | Budget::Percent(0))) {
        return Err("a batch needs at least one host".to_owned());
    }
    Ok(batches)
}

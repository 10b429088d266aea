//! In what order hosts change, and when to stop. Pure.

use std::str::FromStr;

/// A number of hosts, or a share of those selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many.
    Hosts(usize),
    /// So many in a hundred, rounded up.
    Percent(u8),
}

impl Budget {
    /// How many hosts that is of so many.
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
        let bad = || format!("`{text}` is neither a number of hosts nor a percentage like `10%`");
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
        return Err("a batch of no hosts would never end".to_owned());
    }
    Ok(batches)
}

/// Hands out hosts batch by batch, until too many have failed.
#[derive(Clone, Debug)]
pub struct Rollout {
    batches: Vec<usize>,
    max_fail: usize,
    failed: usize,
}

impl Rollout {
    /// A rollout over so many hosts. The last batch size repeats until all have had their turn.
    pub fn new(hosts: usize, batches: &[Budget], max_fail: Budget) -> Self {
        let mut sizes = Vec::new();
        let mut left = hosts;
        let mut sizes_wanted = batches.iter();
        let mut size = 1;
        while left > 0 {
            size = sizes_wanted.next().map_or(size, |b| b.of(hosts)).max(1);
            sizes.push(size.min(left));
            left -= size.min(left);
        }
        Self { batches: sizes, max_fail: max_fail.of(hosts).max(1), failed: 0 }
    }

    /// The sizes of the batches in order; they add up to the hosts.
    pub fn batches(&self) -> &[usize] {
        &self.batches
    }

    /// A host failed, was rolled back or became unknown.
    pub fn count_failure(&mut self) {
        self.failed += 1;
    }

    /// Whether no new host may start.
    pub fn stopped(&self) -> bool {
        self.failed >= self.max_fail
    }

    /// How many failed, of how many that stop the run.
    pub fn budget(&self) -> (usize, usize) {
        (self.failed, self.max_fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canary_then_tenth_then_all() {
        let batches = parse_batches("1,10%,100%").unwrap();
        assert_eq!(Rollout::new(100, &batches, Budget::Hosts(1)).batches(), [1, 10, 89]);
        assert_eq!(Rollout::new(1, &batches, Budget::Hosts(1)).batches(), [1]);
        assert_eq!(Rollout::new(3, &batches, Budget::Hosts(1)).batches(), [1, 1, 1]);
        assert!(parse_batches("0").is_err() && parse_batches("x").is_err() && parse_batches("101%").is_err());
    }

    proptest! {
        #[test]
        fn every_host_once(hosts in 0usize..5000, first in 1usize..50, percent in 1u8..=100) {
            let rollout = Rollout::new(hosts, &[Budget::Hosts(first), Budget::Percent(percent)], Budget::Percent(5));
            prop_assert_eq!(rollout.batches().iter().sum::<usize>(), hosts);
            prop_assert!(rollout.batches().iter().all(|b| *b > 0));
        }
    }
}

//! `--shard I/N`: a part of the hosts, for fleets that several controllers work on at once.

use super::Common;

/// Part `index` (from 1) of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    index: u64,
    pub(super) count: u64,
}

/// Index and count as job engines tell them, and what their first index is.
const ENGINES: [(&str, &str, u64); 4] = [
    ("JOB_COMPLETION_INDEX", "KVMFW_SHARDS", 0),
    ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1),
    ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0),
    ("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", 0),
];

/// Reads `I/N`.
pub(super) fn parse(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => Ok(Shard { index, count }),
        _ => Err(format!("`{}` is not a valid shard; write 1/4 to 4/4", text.escape_debug())),
    }
}

/// The shard that the flag names, else the one that the job engine tells.
pub(super) fn chosen(common: &Common) -> Result<Option<Shard>, String> {
    if common.shard.is_some() {
        return Ok(common.shard);
    }
    for (index, count, first) in ENGINES {
        let Ok(at) = std::env::var(index) else { continue };
        let of = std::env::var(count).map_err(|_| {
            format!(
                "{index} is set but {count} is not: set {count} to the number of jobs, or pass --shard 1/1"
            )
        })?;
        let number = at.parse::<u64>().ok().and_then(|at| at.checked_add(1)?.checked_sub(first));
        let shard = number.and_then(|at| parse(&format!("{at}/{of}")).ok());
        return shard.map(Some).ok_or_else(|| {
            format!(
                "{index} and {count} are not a valid shard; pass --shard \
            I/N"
            )
        });
    }
    Ok(None)
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Shard {
    /// Whether a host is in it. Only the name counts: hosts that come and go move no others.
    pub(super) fn has(self, host: &str) -> bool {
        // FNV-1a, folded so that every bit counts.
        let hash = host
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        (hash ^ (hash >> 32)) % self.count == self.index - 1
    }
}

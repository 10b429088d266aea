//! What a plan was made from, in few letters: whoever sees the same fingerprint again makes the same plan.

use super::HostPlan;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// The first 16 bytes of the SHA-256 of some pieces, in hexadecimal; where one ends and the next
/// begins counts.
pub fn digest<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update(format!("{}\n{piece}", piece.len()));
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl HostPlan {
    /// The generation that the plan was made against, what it shows of the host, and what the host gets.
    /// The generation alone tells a plan that was applied and undone again from one that never was.
    /// Foreign rules are not in it.
    pub fn fingerprint(&self) -> String {
        let generation = self.generation.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let mut pieces = vec![generation];
        for change in &self.changes {
            pieces.push(format!("{} {} {:?}", change.kind.as_str(), change.resource, change.action));
            pieces.push(change.diff.text());
        }
        pieces.push(self.transaction_files.hash());
        digest(pieces.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn where_a_piece_ends_counts() {
        assert_eq!(digest(["ab", "c"]), digest(["ab", "c"]));
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest([]).len(), 32);
    }
}

//! Where the jump hosts of an inventory are, for hosts to say whether one of them is a guest of theirs.

use crate::jump_hosts::JumpHost;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A name that resolves to more addresses than that is that of no guest.
const ADDRESSES: usize = 8;

/// How long names of jump hosts may take, all at once: a plan does not wait for a resolver that is away.
const LIMIT: Duration = Duration::from_secs(3);

/// The jump hosts of an inventory; their names are looked up once, while connections come up.
#[derive(Default)]
pub(super) struct Ways {
    all: Arc<[JumpHost]>,
    resolved: OnceCell<String>,
}

impl Ways {
    /// Begins to look them up.
    pub(super) fn look_up(all: &Arc<[JumpHost]>) -> Arc<Self> {
        let ways = Arc::new(Self { all: all.clone(), ..Self::default() });
        let begun = ways.clone();
        if !all.is_empty() {
            tokio::spawn(async move { begun.addresses().await.len() });
        }
        ways
    }

    /// `NUMBER=ADDRESS` for each address of each, with spaces between. A name that only ssh_config knows, or that
    /// resolves to nothing, is left out.
    pub(super) async fn addresses(&self) -> &str {
        self.resolved.get_or_init(|| resolved(&self.all)).await
    }
}

async fn resolved(ways: &Arc<[JumpHost]>) -> String {
    let mut tasks = JoinSet::new();
    for number in 0..ways.len() {
        let ways = ways.clone();
        tasks.spawn(async move {
            let hop = ways.get(number).map_or("", |way| way.address.as_str());
            let found = timeout(LIMIT, lookup_host((hop, 0))).await;
            let found = found.into_iter().flatten().flatten();
            found.take(ADDRESSES).map(|address| (number, address.ip())).collect::<Vec<_>>()
        });
    }
    let mut all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    let mut text = String::new();
    for (number, address) in all {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}{number}={address}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_by_number_and_nothing_for_who_is_not_found() {
        let way = |hop: &str| JumpHost { address: hop.to_owned(), behind: "kvm1".to_owned() };
        let ways: Arc<[JumpHost]> =
            ["192.0.2.7", "no such name", "2001:db8::7"].into_iter().map(way).collect();
        let ways = Ways::look_up(&ways);
        assert_eq!(ways.addresses().await, "0=192.0.2.7 2=2001:db8::7");
        assert_eq!(ways.addresses().await, "0=192.0.2.7 2=2001:db8::7");
        assert_eq!(Ways::default().addresses().await, "");
    }
}

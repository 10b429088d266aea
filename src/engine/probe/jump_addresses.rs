//! Addresses of the inventory's jump hosts. Each host is asked whether one of them is its guest.

use crate::jump_hosts::JumpHost;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Addresses that are kept of one name. No guest has more.
const MAX_ADDRESSES: usize = 8;

/// Limit of all lookups together, so that a plan does not wait for an unreachable resolver.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// The jump hosts of an inventory, whose names are resolved once, while connections come up.
#[derive(Default)]
pub(in crate::engine) struct JumpAddresses {
    jump_hosts: Arc<[JumpHost]>,
    resolved: OnceCell<String>,
}

impl JumpAddresses {
    /// Starts to resolve them.
    pub(super) fn resolve(jump_hosts: &Arc<[JumpHost]>) -> Arc<Self> {
        let addresses = Arc::new(Self { jump_hosts: jump_hosts.clone(), ..Self::default() });
        let started = addresses.clone();
        if !jump_hosts.is_empty() {
            tokio::spawn(async move { started.get().await.len() });
        }
        addresses
    }

    /// `NUMBER=ADDRESS` for each address of each jump host, separated by spaces. Names that only ssh_config has, or
    /// that do not resolve, are left out.
    pub(super) async fn get(&self) -> &str {
        self.resolved.get_or_init(|| resolved(&self.jump_hosts)).await
    }
}

async fn resolved(jump_hosts: &Arc<[JumpHost]>) -> String {
    let mut tasks = JoinSet::new();
    for number in 0..jump_hosts.len() {
        let jump_hosts = jump_hosts.clone();
        tasks.spawn(async move {
            let name = jump_hosts.get(number).map_or("", |jump_host| jump_host.address.as_str());
            let found = timeout(LOOKUP_TIMEOUT, lookup_host((name, 0))).await;
            let found = found.into_iter().flatten().flatten();
            found.take(MAX_ADDRESSES).map(|address| (number, address.ip())).collect::<Vec<_>>()
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
    async fn addresses_are_numbered_and_unknown_names_left_out() {
        let jump_host = |name: &str| JumpHost { address: name.to_owned(), behind: "kvm1".to_owned() };
        let jump_hosts: Arc<[JumpHost]> =
            ["192.0.2.7", "no such name", "2001:db8::7"].into_iter().map(jump_host).collect();
        let addresses = JumpAddresses::resolve(&jump_hosts);
        assert_eq!(addresses.get().await, "0=192.0.2.7 2=2001:db8::7");
        assert_eq!(addresses.get().await, "0=192.0.2.7 2=2001:db8::7");
        assert_eq!(JumpAddresses::default().get().await, "");
    }
}

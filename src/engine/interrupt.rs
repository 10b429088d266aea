//! Interruption of a run, for Ctrl-C and other signals.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// State of an interruption, shared with the handler of the signals.
#[derive(Debug, Default)]
pub struct Interrupt {
    changing_hosts: AtomicBool,
    requested: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    /// Requests the end of the run. `true`: transactions in flight are decided first. `false`: the process has to end
    /// now, because no host is being changed or because this is the second request.
    pub fn request(&self) -> bool {
        let first = !self.requested.swap(true, Ordering::SeqCst);
        self.notify.notify_waiters();
        first && self.changing_hosts.load(Ordering::SeqCst)
    }

    /// Returns as soon as the end is requested.
    pub(super) async fn requested(&self) {
        // `notify_waiters` wakes only futures that exist: this one has to be made before the check.
        let notified = self.notify.notified();
        if !self.is_requested() {
            notified.await;
        }
    }

    /// Whether the end is requested.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Marks the point from which hosts are changed.
    pub(super) fn start_changing(&self) {
        self.changing_hosts.store(true, Ordering::SeqCst);
    }

    /// Whether hosts are being changed.
    pub fn is_changing_hosts(&self) -> bool {
        self.changing_hosts.load(Ordering::SeqCst)
    }
}

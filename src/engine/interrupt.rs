//! Ctrl-C, as the engine knows it.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// How far an interrupt may go: shared with whoever hears the signals.
#[derive(Debug, Default)]
pub struct Interrupt {
    applying: AtomicBool,
    stop: AtomicBool,
    heard: Notify,
}

impl Interrupt {
    /// Asks to end. `true`: hosts in flight are decided first; `false`: end now, either because
    /// nothing is being changed or because this is the second time.
    pub fn ask(&self) -> bool {
        let first = !self.stop.swap(true, Ordering::SeqCst);
        self.heard.notify_waiters();
        first && self.applying.load(Ordering::SeqCst)
    }

    /// Comes when somebody asks, or at once where somebody has.
    pub(super) async fn heard(&self) {
        // From here on none is missed.
        let heard = self.heard.notified();
        if !self.asked() {
            heard.await;
        }
    }

    /// Whether somebody asked to end.
    pub fn asked(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// From now on hosts are being changed.
    pub(super) fn change(&self) {
        self.applying.store(true, Ordering::SeqCst);
    }

    /// Whether hosts are being changed.
    pub fn applying(&self) -> bool {
        self.applying.load(Ordering::SeqCst)
    }
}

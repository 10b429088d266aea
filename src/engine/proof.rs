//! What has to be proven before a commit where the controller's own new connection proves nothing:
//! on a host that kvmfw itself runs on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

type Asked = Pin<Box<dyn Future<Output = Result<Kept, String>> + Send>>;

/// How a change came to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Somebody got in, or who sits in front of the host said so.
    Proven,
    /// Somebody wanted it kept, and nobody was seen to get in.
    Unproven,
}

/// Asks for the proof that whoever looks after the host still gets in.
#[derive(Clone)]
pub struct Proof(Arc<dyn Fn(Duration) -> Asked + Send + Sync>);

impl Proof {
    /// `ask` gets the time until the guard rolls back by itself. What it gives back as an error is
    /// why the change is to be rolled back at once.
    pub fn new<F>(ask: impl Fn(Duration) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Kept, String>> + Send + 'static,
    {
        Self(Arc::new(move |left| Box::pin(ask(left))))
    }

    /// Asks, for as long as there is time.
    pub(super) async fn ask(&self, left: Duration) -> Result<Kept, String> {
        (self.0)(left).await
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

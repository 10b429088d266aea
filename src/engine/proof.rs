//! Proof that the operator can still log in, where a new connection of the controller proves nothing: on a host that
//! kvmfw itself runs on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

type ConfirmationFuture = Pin<Box<dyn Future<Output = Result<Confirmation, String>> + Send>>;

/// Reason why a change was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// A new login succeeded, or the operator at the console confirmed.
    Proven,
    /// The operator confirmed, but no new login succeeded.
    Unproven,
}

/// Asks for the proof that the operator can still log in.
#[derive(Clone)]
pub struct LoginProof(Arc<dyn Fn(Duration) -> ConfirmationFuture + Send + Sync>);

impl LoginProof {
    /// `obtain` takes the time until the guard rolls back by itself. Its error is the reason to roll back at once.
    pub fn new<F>(obtain: impl Fn(Duration) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Confirmation, String>> + Send + 'static,
    {
        Self(Arc::new(move |left| Box::pin(obtain(left))))
    }

    /// Asks, for as long as there is time.
    pub(super) async fn obtain(&self, left: Duration) -> Result<Confirmation, String> {
        (self.0)(left).await
    }
}

impl fmt::Debug for LoginProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginProof")
    }
}

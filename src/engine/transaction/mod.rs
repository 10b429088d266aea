//! Transaction of one host: staged, applied, confirmed over a new connection, decided. The guard on the host is the single
//! source of truth; anything it has not reported is `Unknown`.

mod apply;
mod checks;
mod guard;
mod verdict;

pub(super) use apply::apply_host;

//! WHO: hosts, groups and modules as they are written, checked but not yet put together.

mod ansible;
mod checks;
mod connection;
mod entry;
mod fence;
mod groups;
mod load;
mod module;
mod module_test;
mod names;
mod params;
mod project;
mod reader;
mod resources;
mod rules;
mod save_text;
mod schema;
mod select;
mod ssh;
mod ssh_arguments;
mod stanza;

pub use connection::*;
pub use entry::{Entry, Owner, ParamText};
pub use load::{Locate, inventories, load, load_text, module_tests, root};
pub use module::{Module, SHIPPED, Values};
pub use module_test::{Carries, ModuleTest, PacketText};
pub use params::{Base, Declared, Type, shown};
pub use project::*;
pub use reader::Spanned;
pub use resources::{BridgeText, PortText, Resources, SysctlText};
pub use rules::{ChainText, RuleText, check_chain};
pub use schema::schema;
pub use select::select;
pub use ssh::SshText;
pub use stanza::{BOOTSTRAP, Reach, Stanza, quoted};

//! The configuration that ssh is given for the length of one connection.

use super::TransportError;
use super::private::PrivateFile;
use crate::inventory::HostConnection;
use std::fmt::Write as _;

/// What the user's and the machine's own configuration add. ssh takes the first value it meets.
const OWN: &str = "Match all\nInclude ~/.ssh/config\nMatch all\nInclude /etc/ssh/ssh_config\n";

/// Where an inventory names the known hosts, ssh writes nothing there, whatever else asks it to.
const READ_ONLY: &str = "UpdateHostKeys no\nCheckHostIP no\n";

/// The options of an inventory, before the user's own configuration. A jump host gets the same file,
/// and with it the word that nobody is to be asked; ssh does not pass that on by itself.
pub(super) fn options(connection: &HostConnection) -> Result<PrivateFile, TransportError> {
    let mut text = "BatchMode yes\n".to_owned();
    if connection.known_hosts.is_some() {
        text.push_str(READ_ONLY);
    }
    for (name, value) in &connection.options {
        let _ = writeln!(text, "{name} {value}");
    }
    text.push_str(OWN);
    PrivateFile::new(&text)
}

/// How a jump host is reached. It must never ask anybody: whoever could answer sees something else.
pub(super) fn jump(connection: &HostConnection) -> Result<PrivateFile, TransportError> {
    let mut text = format!("Host {}\nBatchMode yes\nControlPath none\n", connection.address);
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{name} {value}");
        }
    };
    set("User", connection.user.clone());
    set("Port", connection.port.map(|port| port.to_string()));
    set("IdentityFile", connection.identity_file.as_ref().map(|f| format!("\"{}\"", f.display())));
    set("UserKnownHostsFile", connection.known_hosts.as_ref().map(|f| format!("\"{}\"", f.display())));
    if connection.known_hosts.is_some() {
        text.push_str(READ_ONLY);
    }
    text.push_str(OWN);
    PrivateFile::new(&text)
}

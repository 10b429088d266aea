//! Files that ssh is given for the length of one connection, in a folder that only this user reads.

use super::TransportError;
use crate::inventory::Connection;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the user's and the machine's own configuration add. ssh takes the first value it meets.
const OWN: &str = "Match all\nInclude ~/.ssh/config\nMatch all\nInclude /etc/ssh/ssh_config\n";

/// A file that goes with this value.
pub(super) struct PrivateFile(PathBuf);

impl PrivateFile {
    pub(super) fn new(text: &str) -> Result<Self, TransportError> {
        let name = crate::remote::random_hex(8).map_err(|e| TransportError::Here(e.to_string()))?;
        let path = folder()?.join(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        };
        write().map_err(|e| TransportError::Here(format!("cannot write {}: {e}", path.display())))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where an inventory names the known hosts, ssh writes nothing there, whatever else asks it to.
const READ_ONLY: &str = "UpdateHostKeys no\nCheckHostIP no\n";

/// The folder of this process in that of this user.
enum Own {
    NotMade,
    Made(PathBuf),
    /// This process ends, and makes it no more.
    Gone,
}

static OWN_FOLDER: Mutex<Own> = Mutex::new(Own::NotMade);

fn own_folder() -> MutexGuard<'static, Own> {
    OWN_FOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where control sockets live too: short, because the path of a socket ends at 108 bytes.
pub(super) fn folder() -> Result<PathBuf, TransportError> {
    let here = |e: &dyn std::fmt::Display| TransportError::Here(e.to_string());
    let mut own = own_folder();
    match &*own {
        Own::Made(folder) => Ok(folder.clone()),
        Own::Gone => Err(TransportError::Here("kvmfw ends".to_owned())),
        Own::NotMade => {
            let folder = of_user()?.join(crate::remote::random_hex(4).map_err(|e| here(&e))?);
            let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
            made.map_err(|e| here(&format!("cannot use {}: {e}", folder.display())))?;
            *own = Own::Made(folder.clone());
            Ok(folder)
        }
    }
}

/// The folders of this process' control sockets.
pub(super) fn sockets() -> Vec<PathBuf> {
    let Own::Made(folder) = &*own_folder() else { return Vec::new() };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join("master")).filter(|path| path.exists()).collect()
}

/// Takes away what this process keeps for its connections. What still runs over them is over.
pub fn clean() {
    remove(Own::NotMade);
}

/// The same for a process that ends at once: what is connecting meanwhile makes no new files.
pub fn clean_for_good() {
    remove(Own::Gone);
}

fn remove(then: Own) {
    let before = std::mem::replace(&mut *own_folder(), then);
    if let Own::Made(folder) = before {
        // Who is about to make a file in it does not find it under another name; else one might come while it is
        // emptied, and it stayed.
        let away = folder.with_extension("gone");
        let found = std::fs::rename(&folder, &away).map_or(folder, |()| away);
        let _ = std::fs::remove_dir_all(found);
    }
}

fn of_user() -> Result<PathBuf, TransportError> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let uid = nix::unistd::geteuid().as_raw();
    let folder = base.join(format!("kvmfw-{uid}"));
    let here = |e: std::io::Error| TransportError::Here(format!("cannot use {}: {e}", folder.display()));
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(here(error)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(&folder).map_err(here)?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        return Err(TransportError::Here(format!(
            "{} belongs to somebody else or is open to others; remove it",
            folder.display()
        )));
    }
    Ok(folder)
}

/// The options of an inventory, before the user's own configuration. A jump host gets the same file,
/// and with it the word that nobody is to be asked; ssh does not pass that on by itself.
pub(super) fn options(connection: &Connection) -> Result<PrivateFile, TransportError> {
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
pub(super) fn jump(connection: &Connection) -> Result<PrivateFile, TransportError> {
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

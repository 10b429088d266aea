//! How a host is reached, from the words of the command line.

use super::{CliError, runtime};
use crate::inventory::SshTarget;
use clap::Args;
use std::path::{Path, PathBuf};

/// Files of ssh, for a host that no inventory says how to reach.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// Private key for the login
    #[arg(long, value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// File of known host keys
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
}

impl Files {
    /// The first flag that was given.
    pub(super) fn flag(&self) -> Option<&'static str> {
        let identity = self.identity_file.as_ref().map(|_| "--identity-file");
        identity.or(self.known_hosts.as_ref().map(|_| "--known-hosts"))
    }

    /// Keys of `ssh:` with the files that were named for them.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let absolute = |path: &Path| {
            std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
        };
        [("identity_file", &self.identity_file), ("known_hosts", &self.known_hosts)]
            .into_iter()
            .filter_map(|(key, file)| Some((key, absolute(file.as_deref()?))))
            .collect()
    }
}

/// `USER@HOST:PORT` taken apart; the name is the host's in the inventory.
pub(super) fn parse(text: &str, files: Option<&Files>, name: Option<&String>) -> Result<SshTarget, CliError> {
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, text),
    };
    let (address, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (place, None),
        },
    };
    let Ok(port) = port.map(str::parse::<u16>).transpose() else {
        return Err(CliError::bad_input(format!("`{}`: not a valid port", text.escape_debug())));
    };
    let files = files.map(Files::keys).unwrap_or_default();
    let name = name.cloned().unwrap_or_else(|| match address.contains(':') {
        // Colons have no place in a host's name.
        true => format!("host-{}", address.replace(':', "-")),
        false => address.to_owned(),
    });
    Ok(SshTarget { name, address: address.to_owned(), user, port, files })
}

/// How others may reach this very machine, as far as one can tell before looking at it.
pub(super) fn here(name: Option<&String>) -> Result<SshTarget, CliError> {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let Some(name) = name.cloned().or(host) else {
        return Err(CliError::bad_input("this host has no name").hint("pass one with --name"));
    };
    Ok(SshTarget { address: name.clone(), name, user: runtime::user(), port: None, files: Vec::new() })
}

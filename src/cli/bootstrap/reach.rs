//! How a host is reached, from the words of the command line.

use crate::cli::{exit, setup};
use crate::inventory::Reach;
use std::path::Path;

/// Keys of `ssh:` with the files that the command line names for them.
pub(in crate::cli) type Files<'a> = [(&'static str, Option<&'a Path>); 2];

/// `USER@HOST:PORT` taken apart; `files` are those of ssh, the name is the host's in the inventory.
pub(in crate::cli) fn parse(text: &str, files: Files<'_>, name: Option<&String>) -> Result<Reach, u8> {
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
        setup::complain(&format!("`{}`: that is no port", text.escape_debug()));
        return Err(exit::BAD_INPUT);
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
    };
    let files = files.into_iter().filter_map(|(key, file)| Some((key, absolute(file?)))).collect();
    let name = name.cloned().unwrap_or_else(|| match address.contains(':') {
        // Colons have no place in a host's name.
        true => format!("host-{}", address.replace(':', "-")),
        false => address.to_owned(),
    });
    Ok(Reach { name, address: address.to_owned(), user, port, files })
}

/// How others may reach this very machine, as far as one can tell before looking at it.
pub(super) fn here(name: Option<&String>) -> Result<Reach, u8> {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let Some(name) = name.cloned().or(host) else {
        setup::complain("this host has no name; give it one with --name");
        return Err(exit::BAD_INPUT);
    };
    Ok(Reach { address: name.clone(), name, user: setup::user(), port: None, files: Vec::new() })
}

//! Files that ssh is given, and its control sockets: in a folder of this process that only its user reads, and whose name
//! nobody can know and take before.

use super::TransportError;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How the names of our folders begin; random digits follow.
const NAME: &str = "kvmfw-";

/// So many random bytes make a name.
const RANDOM: usize = 6;

/// In each folder; its process holds the lock of this file for as long as it lives.
const LOCK: &str = "lock";

/// The path of a socket ends at 107 bytes; so many of them come after our folder: the socket's own folder, its name and
/// what ssh puts behind that while it makes it.
const SOCKET_PATH: usize = 107 - "/.ssh-connectionXXXXXX/master.XXXXXXXXXXXXXXXX".len();

/// Where a folder can be made without `XDG_RUNTIME_DIR`.
const SHARED: &str = "/tmp";

/// A folder without a lock file may be one that is just being made.
const BEING_MADE: Duration = Duration::from_secs(60);

/// A file that goes with this value.
pub(super) struct PrivateFile(PathBuf);

impl PrivateFile {
    pub(super) fn new(text: &str) -> Result<Self, TransportError> {
        let name = random(8).map_err(|e| TransportError::Here(e.to_string()))?;
        let path = folder()?.join(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, text.as_bytes())
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

/// The folder of this process.
enum Own {
    NotMade,
    /// With the lock that tells others that its process lives.
    Made(PathBuf, Flock<File>),
    /// This process ends, and makes it no more.
    Gone,
}

static OWN_FOLDER: Mutex<Own> = Mutex::new(Own::NotMade);

fn own_folder() -> MutexGuard<'static, Own> {
    OWN_FOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where files and control sockets of this process live.
pub(super) fn folder() -> Result<PathBuf, TransportError> {
    let mut own = own_folder();
    match &*own {
        Own::Made(folder, _) => Ok(folder.clone()),
        Own::Gone => Err(TransportError::Here("kvmfw ends".to_owned())),
        Own::NotMade => {
            let (folder, lock) = make().map_err(|why| {
                TransportError::Here(format!(
                    "cannot create a private folder for ssh: {why}; set XDG_RUNTIME_DIR to a folder with a \
                     short path and mode 0700"
                ))
            })?;
            *own = Own::Made(folder.clone(), lock);
            Ok(folder)
        }
    }
}

/// The folders of this process' control sockets.
pub(super) fn sockets() -> Vec<PathBuf> {
    let Own::Made(folder, _) = &*own_folder() else { return Vec::new() };
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
    if let Own::Made(folder, _lock) = before {
        // Who is about to make a file in it does not find it under another name; else one might come while it is
        // emptied, and it stayed.
        let away = folder.with_extension("gone");
        let found = std::fs::rename(&folder, &away).map_or(folder, |()| away);
        let _ = std::fs::remove_dir_all(found);
    }
}

/// Makes a folder where that can be done, and takes away those of processes that were killed.
///
/// Errors: there is no place for one; a sentence.
fn make() -> Result<(PathBuf, Flock<File>), String> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let places = runtime.filter(|place| is_own(place) && fits(place)).into_iter().chain([SHARED.into()]);
    let mut trouble = String::new();
    for place in places {
        match safe(&place).and_then(|()| make_in(&place)) {
            Ok(made) => {
                remove_stale(&place);
                return Ok(made);
            }
            Err(error) => trouble = format!("{}: {error}", place.display()),
        }
    }
    Err(trouble)
}

/// Whether sockets below a folder of ours in this place have a path that is short enough.
fn fits(place: &Path) -> bool {
    place.is_absolute() && place.as_os_str().len() + 1 + NAME.len() + 2 * RANDOM <= SOCKET_PATH
}

/// Whether a folder, and not a link to one, is of this user and of nobody else.
fn is_own(place: &Path) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    std::fs::symlink_metadata(place)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == user && meta.mode() & 0o077 == 0)
}

/// Errors: others can rename what this user makes there.
fn safe(place: &Path) -> io::Result<()> {
    let meta = std::fs::metadata(place)?;
    let owner = meta.uid();
    let ours = owner == 0 || owner == nix::unistd::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
        return Err(io::Error::other("others can rename folders there (`chmod 1777` makes it safe)"));
    }
    Ok(())
}

fn make_in(place: &Path) -> io::Result<(PathBuf, Flock<File>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_make(place) {
            // Its name is taken, or somebody took it for a stale one.
            Err(error) if tries < 8 && is_chance(&error) => {}
            done => return done,
        }
    }
}

fn is_chance(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound | io::ErrorKind::WouldBlock)
}

fn try_make(place: &Path) -> io::Result<(PathBuf, Flock<File>)> {
    let folder = place.join(format!("{NAME}{}", random(RANDOM)?));
    DirBuilder::new().mode(0o700).create(&folder)?;
    // The umask may have taken our own bits.
    std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
    if !is_own(&folder) {
        return Err(io::Error::other(format!("{} is not what was made", folder.display())));
    }
    let path = folder.join(LOCK);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let lock =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
    // It was not removed just before.
    if std::fs::symlink_metadata(&path)?.ino() != lock.metadata()?.ino() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok((folder, lock))
}

/// Takes away folders whose process did not live to do it.
fn remove_stale(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(is_name) && is_own(&path) {
            remove_if_stale(&path);
        }
    }
}

/// Not by process number: its process may be in another container.
fn remove_if_stale(folder: &Path) {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    // No link is followed, neither this nor one below it.
    let remove = || drop(std::fs::remove_dir_all(folder));
    match OpenOptions::new().read(true).custom_flags(flags).open(folder.join(LOCK)) {
        Ok(file) => {
            // Held until all is gone: a process that has just made the folder takes another one then.
            if let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                remove();
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = std::fs::symlink_metadata(folder).and_then(|meta| meta.modified());
            if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEING_MADE)) {
                remove();
            }
        }
        Err(_) => {}
    }
}

/// Whether a name is one of ours, also one that was about to be removed.
fn is_name(name: &str) -> bool {
    let digits = name.strip_prefix(NAME).map(|rest| rest.strip_suffix(".gone").unwrap_or(rest));
    digits.is_some_and(|digits| digits.len() == 2 * RANDOM && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn random(bytes: usize) -> io::Result<String> {
    crate::host::random_hex(bytes).map_err(|error| io::Error::other(error.to_string()))
}

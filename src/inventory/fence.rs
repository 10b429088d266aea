//! Where input files may lie. A symbolic link of a merge request can lead anywhere, `/proc/self/environ` of a pipeline's job
//! for example, and a problem in a file is shown with its line.

use super::load::absolute;
use crate::yaml;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// The folders that files may be read from.
pub(super) struct ReadFence {
    /// The project's folder as it was named, and as it is without links.
    root: [PathBuf; 2],
    /// What the user named outside of the project, without links.
    named: Option<PathBuf>,
}

impl ReadFence {
    pub(super) fn new(root: &Path) -> Self {
        let root = absolute(root);
        let real = fs::canonicalize(&root).unwrap_or_else(|_| root.clone());
        Self { root: [lexical(&root), real], named: None }
    }

    /// Also lets in what the user named, if it lies outside of the project. What lies inside is as good as any other
    /// file there.
    pub(super) fn let_in(&mut self, path: &Path) {
        let path = absolute(path);
        let parent = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
        let place = parent.zip(path.file_name()).map(|(parent, name)| parent.join(name));
        let written = lexical(&path);
        let inside = |path: &PathBuf| self.root.iter().any(|root| path.starts_with(root));
        if !inside(&written) && !place.as_ref().is_some_and(inside) {
            self.named = fs::canonicalize(&path).ok();
        }
    }

    /// Whether a path leads to a place where files may be read; the reason why not.
    pub(super) fn check(&self, path: &Path) -> Result<(), String> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(_) if path.is_symlink() => return Err("is a symbolic link that leads to no file".to_owned()),
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        let [_, root] = &self.root;
        if self.named.as_ref().is_some_and(|named| real.starts_with(named)) {
            return match ["/proc", "/sys", "/dev"].iter().find(|folder| real.starts_with(folder)) {
                Some(folder) => Err(format!("lies in {folder}, which has no input files")),
                None => Ok(()),
            };
        }
        match real.starts_with(root) {
            true => Ok(()),
            false => Err("is or lies behind a symbolic link that leads out of the project".to_owned()),
        }
    }

    /// The bytes of a file: a regular one, of a size that is sane.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.check(path)?;
        let failed = |error: std::io::Error| format!("cannot be read: {error}");
        // To open a pipe would wait for whoever writes to it; a device may do anything.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err("is not a regular file".to_owned());
        }
        let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = file.map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut bytes = Vec::new();
        // The size of some is only known once they are read.
        file.take(yaml::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        match bytes.len() as u64 > yaml::MAX_BYTES {
            true => Err(format!("is {size} bytes long, more than the 16 MiB of an input file")),
            false => Ok(bytes),
        }
    }
}

/// Whether a file is a program rather than data, by its name and its mode.
pub(super) fn is_program(path: &Path) -> bool {
    let data = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
    !data && fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A path less its `.` and `..`, as it is written.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

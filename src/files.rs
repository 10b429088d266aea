//! How files and folders are made on the controller. Who may read them does not depend on the umask: what tells how hosts
//! are guarded is for its owner alone, what is made to be handed on is for everybody to read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Who may read what is made; only the owner ever writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Saved plans, runs, known hosts.
    Owner,
    /// JUnit, schemas, manual pages.
    Everybody,
}

impl Readers {
    fn file(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }

    fn folder(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Everybody => 0o755,
        }
    }
}

/// Opens an empty file. One that was there and that everybody may read keeps its mode: somebody chose it.
pub fn create(path: &Path, readers: Readers) -> io::Result<File> {
    let (file, is_new) = open(path, readers, OpenOptions::new().write(true))?;
    if is_new || readers == Readers::Owner {
        set_mode(&file, readers.file())?;
    }
    // Emptied after its mode was set, so that nobody who has it open reads what comes.
    if !is_new && file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Writes a whole file.
pub fn write(path: &Path, readers: Readers, text: &str) -> io::Result<()> {
    create(path, readers)?.write_all(text.as_bytes())
}

/// A file that takes the place of another one as a whole, so that nobody reads half of it.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    new: PathBuf,
    file: File,
}

impl Replacement {
    /// Opens the new file, beside the one that it is to replace.
    pub fn begin(path: &Path, readers: Readers) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        let mut new = std::ffi::OsString::from(".");
        new.push(name);
        new.push(".new");
        let new = path.with_file_name(new);
        let file = create(&new, readers)?;
        Ok(Self { path: path.to_owned(), new, file })
    }

    /// Writes the new file and puts it in the place of the old one.
    pub fn end(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        std::fs::rename(&self.new, &self.path)
    }

    /// Leaves the old one.
    pub fn abandon(self) {
        drop(std::fs::remove_file(&self.new));
    }
}

/// Opens a file to be written at its end. One that was there keeps its mode.
pub fn append(path: &Path, readers: Readers) -> io::Result<File> {
    let (file, is_new) = open(path, readers, OpenOptions::new().append(true))?;
    if is_new {
        set_mode(&file, readers.file())?;
    }
    Ok(file)
}

/// Makes a folder and those above it that are not there.
pub fn folder(path: &Path, readers: Readers) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        folder(above, readers)?;
    }
    match DirBuilder::new().mode(readers.folder()).create(path) {
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(readers.folder())),
        // Somebody else made it just now.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file, and whether it was made just now.
fn open(path: &Path, readers: Readers, how: &OpenOptions) -> io::Result<(File, bool)> {
    match how.clone().create_new(true).mode(readers.file()).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Where it is a link to nothing, this makes what it leads to.
            Ok((how.clone().create(true).mode(readers.file()).open(path)?, false))
        }
        Err(error) => Err(error),
    }
}

/// A pipe or a device keeps the mode that it has.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_that_were_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "more than before").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        write(&path, Readers::Everybody, "less").unwrap();
        assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap()), (0o664, "less".to_owned()));
        write(&path, Readers::Owner, "").unwrap();
        assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap()), (0o600, String::new()));
        append(&path, Readers::Owner).unwrap().write_all(b"a").unwrap();
        append(&path, Readers::Owner).unwrap().write_all(b"b").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ab");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("new"), &link).unwrap();
        write(&link, Readers::Owner, "x").unwrap();
        assert_eq!(mode(&folder.path().join("new")), 0o600);
        write(Path::new("/dev/null"), Readers::Owner, "x").unwrap();
        assert!(write(&folder.path().join("absent/f"), Readers::Owner, "x").is_err());
        assert!(super::folder(&path.join("below"), Readers::Owner).is_err());
    }
}

//! Between the claim of a change and its first rule lie a few milliseconds, too few to strike there by looking. So
//! the change meets a FIFO where it writes down its first step, and waits until it is let through.

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub struct Gate {
    journal: PathBuf,
    fifo: File,
    let_through: Option<File>,
}

impl Gate {
    /// Puts the FIFO into the folder of a transaction. `None` where its journal is begun already.
    pub fn shut(folder: &Path) -> Option<Self> {
        let journal = folder.join("journal");
        mkfifo(&journal, Mode::from_bits_truncate(0o600)).ok()?;
        let fifo = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(&journal).unwrap();
        Some(Self { journal, fifo, let_through: None })
    }

    /// A journal like any other takes its place; who waits goes on waiting.
    pub fn put_away(&self) {
        if fs::symlink_metadata(&self.journal).is_ok_and(|m| m.file_type().is_fifo()) {
            let new = self.journal.with_file_name("journal.new");
            fs::write(&new, "").and_then(|()| fs::rename(&new, &self.journal)).unwrap();
        }
    }

    /// Who waits goes on.
    pub fn open(&mut self) {
        self.put_away();
        let path = format!("/proc/self/fd/{}", self.fifo.as_raw_fd());
        let mut options = OpenOptions::new();
        self.let_through = Some(options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap());
    }
}

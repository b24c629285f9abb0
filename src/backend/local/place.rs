//! Where a queue is: the file, and the folder of side files beside it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::errors::Called;
use crate::error::{Error, ErrorKind, Result};

/// The paths of one queue, or of another file that is shared like one. Side files hold no data:
/// locks and sockets only.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The SQLite file, absolute and with links resolved, so that every process finds the same
    /// side files.
    pub(crate) file: PathBuf,
    /// The folder of side files: `queue.db.nodes`.
    pub(super) nodes: PathBuf,
}

impl Place {
    /// Resolves `path`, creating what folders are missing.
    pub(crate) fn prepare(called: &Called, path: &Path) -> Result<Place> {
        let Called { name: what, at } = called;
        let refuse = |doing: &str, folder: &Path, error: io::Error| {
            Error::new(
                ErrorKind::Queue,
                format!(
                    "{what} {} cannot be opened: {doing} {} failed: {error}; make it writable, or name a file in a \
                     folder that is {at}",
                    path.display(),
                    folder.display()
                ),
            )
            .with_source(error)
        };
        let absolute = std::path::absolute(path).map_err(|error| refuse("resolving", path, error))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the path {} of {what} names no file: give it one, such as .dawdle/queue.db", path.display()),
            ));
        };
        create_folders(parent).map_err(|error| refuse("creating the folder", parent, error))?;
        if parent.file_name().is_some_and(|folder| folder == ".dawdle") {
            // Failing to write it harms nobody.
            let _ = ignore_in_git(parent);
        }
        let file = match absolute.canonicalize() {
            Ok(file) => file,
            Err(_) => parent.canonicalize().map_err(|error| refuse("resolving the folder", parent, error))?.join(name),
        };
        if file.is_dir() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the path {} of {what} is a folder: name a file in it, such as queue.db", file.display()),
            ));
        }
        let mut nodes = file.clone().into_os_string();
        nodes.push(".nodes");
        let nodes = PathBuf::from(nodes);
        create_folders(&nodes).map_err(|error| refuse("creating the folder", &nodes, error))?;
        Ok(Place { file, nodes })
    }

    /// Creates the file, readable by its owner only, unless it is there. Only to be called by who
    /// has the [turn](super::turn::Turn): closing a file drops this process's SQLite locks on it.
    pub(crate) fn create_file(&self) -> io::Result<()> {
        match private_file().create_new(true).open(&self.file) {
            Ok(file) => {
                file.sync_all()?;
                sync_folder(&self.file)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What tells the file that is there now from another of its name, where the system has such a
    /// thing.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(&self.file).ok().map(|file| (file.dev(), file.ino()))
        }
        #[cfg(not(unix))]
        None
    }

    /// A side file.
    pub(super) fn side_file(&self, name: &str) -> PathBuf {
        self.nodes.join(name)
    }

    /// Opens a side file for locking, creating it where it is missing.
    pub(super) fn open_side_file(&self, name: &str) -> io::Result<File> {
        private_file().create(true).truncate(false).open(self.side_file(name))
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    // The entries of new folders must be on disk before the first send is answered.
    folder.ancestors().take(8).try_for_each(sync_folder).or(Ok(()))
}

fn sync_folder(of: &Path) -> io::Result<()> {
    match of.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

fn ignore_in_git(folder: &Path) -> io::Result<()> {
    let path = folder.join(".gitignore");
    if path.exists() { Ok(()) } else { fs::write(path, "*\n") }
}

//! Telling network file systems from local ones.

use std::path::{Path, PathBuf};

use super::errors::Called;
use crate::error::{Error, ErrorKind, Result};

/// File systems that several machines see. The locks and the shared memory that SQLite's log goes
/// by do not work across machines.
const NETWORK: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.s3fs",
    "fuse.rclone",
];

/// Refuses a file, at `path`, absolute, on a network file system.
pub(crate) fn refuse_network(called: &Called, path: &Path) -> Result<()> {
    let Some(kind) = network(path) else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Queue,
        format!(
            "{} {} is on a network file system ({kind}), whose locks do not keep it safe: put it on a local disk {}",
            called.name,
            path.display(),
            called.at
        ),
    ))
}

/// The network file system that `path`, absolute, lies on; `None` where there is none, or this
/// system does not tell.
fn network(path: &Path) -> Option<String> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    file_system(&mounts, path).filter(|kind| NETWORK.contains(&kind.as_str()))
}

/// The file system of `path` by the lines of `mountinfo`: that of the innermost mount, the last
/// where several are on one place.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let parsed = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(mount.split(' ').nth(4)?));
        path.starts_with(&point).then(|| (point.components().count(), source.split(' ').next().unwrap_or_default()))
    });
    parsed.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind.to_owned())
}

/// Spaces and the like are written as `\\040`.
fn unescape(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"].iter().fold(text.to_owned(), |text, escape| {
        let (from, to) = escape.split_at(4);
        text.replace(from, to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn innermost_mount_counts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      40 22 0:50 / /home rw,noatime shared:1 - nfs4 server:/home rw\n\
                      41 40 8:2 / /home/me/local\\040disk rw - xfs /dev/sdb rw\n";
        let of = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(of("/var/queue.db").as_deref(), Some("ext4"));
        assert_eq!(of("/home/me/.dawdle/queue.db").as_deref(), Some("nfs4"));
        assert_eq!(of("/home/me/local disk/queue.db").as_deref(), Some("xfs"));
        assert_eq!(of("/homely/queue.db").as_deref(), Some("ext4"));
    }
}

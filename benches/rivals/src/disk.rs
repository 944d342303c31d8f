//! What the disk and the kernel say: bytes held, bytes written, caches dropped, memory fenced in.

use rustix::fs::{Advice, fadvise, fsync};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Bytes that the file system has given to the files of a folder.
pub(crate) fn held_bytes(dir: &Path) -> u64 {
    held_bytes_of(dir, |_| true)
}

/// The same of those whose names are chosen.
pub(crate) fn held_bytes_of(dir: &Path, chosen: impl Fn(&str) -> bool) -> u64 {
    let of = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        chosen(name).then_some(fs::metadata(&path).ok()?.blocks() * 512)
    };
    files(dir).into_iter().filter_map(of).sum()
}

/// Bytes that this process has sent towards the device so far: direct writes, and pages of the page
/// cache when they became dirty. Without the file system's own journal.
pub(crate) fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = |name: &str| {
        let line = io.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let written = field("write_bytes").unwrap_or(0);
    written - field("cancelled_write_bytes").unwrap_or(0).min(written)
}

/// Lets the page cache forget the files of a folder. Nobody may have them mapped.
pub(crate) fn forget(dir: &Path) {
    for path in files(dir) {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        fsync(&file).expect("flushed");
        fadvise(&file, 0, None, Advice::DontNeed).expect("forgotten");
    }
}

/// Writes to a file that is there: a folder that is no cgroup would take new ones and limit nobody.
fn write_to(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// A limit of this process's memory, page cache included, until it is dropped.
pub(crate) struct Fence {
    folder: PathBuf,
    back: PathBuf,
}

impl Fence {
    /// Puts this process behind a limit, by either version of cgroups. Where neither can be
    /// written, says so.
    pub(crate) fn enter(bytes: u64) -> Result<Self, String> {
        let name = format!("dynomite-rivals-{}", std::process::id());
        let tries = [
            ("/sys/fs/cgroup", "memory.max", true),
            ("/sys/fs/cgroup/unified", "memory.max", true),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", false),
        ];
        for (root, limit, second) in tries {
            let root = Path::new(root);
            if second {
                let control = root.join("cgroup.subtree_control");
                let _ = write_to(&control, "+memory");
                let enabled = fs::read_to_string(&control).unwrap_or_default();
                if !enabled.contains("memory") {
                    continue;
                }
            }
            let folder = root.join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            // Dropped, it is taken away again.
            let fence = Self {
                folder: folder.clone(),
                back: root.join("cgroup.procs"),
            };
            let me = std::process::id().to_string();
            if write_to(&folder.join(limit), &bytes.to_string()).is_ok()
                && write_to(&folder.join("cgroup.procs"), &me).is_ok()
            {
                return Ok(fence);
            }
        }
        Err("no memory cgroup can be written here (needs root)".into())
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let _ = write_to(&self.back, &std::process::id().to_string());
        let _ = fs::remove_dir(&self.folder);
    }
}

//! What the rigs ask of the machine: programs that run, and two system calls.
//!
//! The only unsafe code of the tests stands here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`: one number, `_IOR('X', 125, __u32)`.
const SHUTDOWN: u32 = 0x8004_587d;

/// `EXT4_GOING_FLAGS_NOLOGFLUSH` and `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH`: what the journal has not
/// committed is lost.
const WITHOUT_FLUSH: u32 = 2;

/// How long an unmount waits for what a killed process still holds.
const BUSY_TRIES: u32 = 500;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Runs a program to its end; what it wrote on standard output.
pub fn program(name: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} {}: {}", arguments.join(" "), said.trim()))
}

/// Whether a program can be started at all.
pub fn has_program(name: &str) -> bool {
    let mut command = Command::new(name);
    command
        .arg("-V")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}

/// Cuts off the file system that `path` is on.
pub fn shut_down(path: &Path) -> io::Result<()> {
    let folder = File::open(path)?;
    let flags = WITHOUT_FLUSH;
    // SAFETY: the descriptor is open for the call, and the kernel reads four bytes from the
    // pointer, which are ours and live as long.
    let result = unsafe {
        libc::ioctl(
            folder.as_raw_fd(),
            libc::Ioctl::from(SHUTDOWN),
            &raw const flags,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Brings dirty pages of a stretch of a file to its disk, without flushing that.
pub fn write_back(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call takes numbers and a descriptor that is open.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, flags) };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Unmounts, waiting for whoever still has something open.
pub fn unmount(path: &Path) -> Result<(), String> {
    let path = path.to_string_lossy();
    for attempt in 1.. {
        match program("umount", &[&path]) {
            Ok(_) => break,
            Err(error) if !error.contains("busy") || attempt >= BUSY_TRIES => return Err(error),
            Err(_) => thread::sleep(BUSY_PAUSE),
        }
    }
    Ok(())
}

/// Why no file system can be mounted from a file here, tried with a small one.
pub fn no_loop_mounts() -> Option<String> {
    let try_it = || -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        let made = File::create(&image).and_then(|file| file.set_len(4 << 20));
        made.and_then(|()| std::fs::create_dir(&mount))
            .map_err(|error| error.to_string())?;
        let (image, place) = (image.to_string_lossy(), mount.to_string_lossy());
        program("mkfs.ext4", &["-q", "-F", &image])?;
        program("mount", &["-o", "loop", &image, &place])?;
        unmount(&mount)
    };
    try_it().err()
}

//! File systems in files, and how they are cut off.
//!
//! Two ways. *Shutdown*: the file system's own ioctl, after which nothing of it reaches its disk any
//! more; what `O_DIRECT` wrote in place is there all the same, so only its metadata is at stake.
//! *Power*: the file system stands on a disk that is a file of another, outer file system, written
//! through the page cache. That cache is then the disk's: volatile until the file system above
//! flushes, which the loop device turns into an fsync. Shutting the outer one down throws the cache
//! away, as a power cut does; meanwhile random stretches are written back, so that a random subset
//! survives.
//!
//! Invariant: whatever was mounted is unmounted when a volume is dropped.

use crate::machine::{program, shut_down, unmount, write_back};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use torture::Chance;

/// Bytes of the images. XFS makes no smaller one; all are sparse.
const EXT4_BYTES: u64 = 128 << 20;
const XFS_BYTES: u64 = 320 << 20;
const OUTER_BYTES: u64 = 1 << 30;

/// Stretches that are written back at once.
const STRETCH_BYTES: u64 = 256 << 10;

/// What is cut off, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Ext4,
    /// With a data journal, where ext4 refuses `O_DIRECT`.
    Ext4Cached,
    Xfs,
    Ext4Power,
    XfsPower,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ext4,
        Self::Ext4Cached,
        Self::Xfs,
        Self::Ext4Power,
        Self::XfsPower,
    ];

    /// The rig's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext4Cached => "ext4-cached",
            Self::Xfs => "xfs",
            Self::Ext4Power => "ext4-power",
            Self::XfsPower => "xfs-power",
        }
    }

    fn is_power(self) -> bool {
        matches!(self, Self::Ext4Power | Self::XfsPower)
    }

    /// Whether the store must write past the page cache there.
    pub fn is_direct(self) -> bool {
        self != Self::Ext4Cached
    }

    /// The program that makes the file system, with its arguments.
    pub fn maker(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Xfs | Self::XfsPower => ("mkfs.xfs", &["-q", "-f"]),
            _ => ("mkfs.ext4", &["-q", "-F"]),
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Xfs | Self::XfsPower => XFS_BYTES,
            _ => EXT4_BYTES,
        }
    }

    fn mount_options(self) -> &'static str {
        match self {
            Self::Ext4Cached => "loop,data=journal",
            _ => "loop",
        }
    }
}

/// A file system, made and mounted.
pub struct Volume {
    place: Place,
    image: PathBuf,
    mounted_at: PathBuf,
    /// Image and mount of the outer file system.
    outer: Option<(PathBuf, PathBuf)>,
    mounted: bool,
    outer_mounted: bool,
}

impl Volume {
    /// Makes it below a folder, and mounts it.
    pub fn make(place: Place, folder: &Path) -> Result<Self, String> {
        let make_folder = |name: &str| {
            let path = folder.join(name);
            fs::create_dir(&path)
                .map(|()| path)
                .map_err(|error| error.to_string())
        };
        let outer = if place.is_power() {
            let image = folder.join("outer.img");
            make_image(&image, OUTER_BYTES, "mkfs.ext4", &["-q", "-F"])?;
            Some((image, make_folder("outer")?))
        } else {
            None
        };
        let holder = outer.as_ref().map_or(folder, |(_, mount)| mount);
        let mut volume = Self {
            place,
            image: holder.join("disk.img"),
            mounted_at: make_folder("mount")?,
            outer,
            mounted: false,
            outer_mounted: false,
        };
        volume.mount_outer()?;
        let (maker, arguments) = place.maker();
        make_image(&volume.image, place.bytes(), maker, arguments)?;
        volume.mount()?;
        Ok(volume)
    }

    /// The root of the file system.
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }

    fn mount_outer(&mut self) -> Result<(), String> {
        if let Some((image, mount)) = &self.outer {
            mount_loop(image, mount, "loop")?;
            self.outer_mounted = true;
        }
        Ok(())
    }

    fn mount(&mut self) -> Result<(), String> {
        mount_loop(&self.image, &self.mounted_at, self.place.mount_options())?;
        self.mounted = true;
        Ok(())
    }

    /// What a disk does by itself: some of what is in its cache reaches the medium.
    pub fn write_some_back(&self, chance: &mut Chance) -> Result<(), String> {
        if self.outer.is_none() {
            return Ok(());
        }
        let file = File::open(&self.image).map_err(|error| error.to_string())?;
        let mut offset = 0;
        while offset < self.place.bytes() {
            if chance.percent(30) {
                let written = write_back(&file, offset, STRETCH_BYTES);
                written.map_err(|error| format!("writing back: {error}"))?;
            }
            offset += STRETCH_BYTES;
        }
        Ok(())
    }

    /// Cuts it off. When this returns, nothing reaches the medium any more.
    pub fn cut(&self) -> Result<(), String> {
        let told = |error| format!("shutting down: {error}");
        if let Some((_, outer)) = &self.outer {
            shut_down(outer).map_err(told)?;
            // Its disk is gone: it may have shut itself down already.
            let _ = shut_down(&self.mounted_at);
            return Ok(());
        }
        shut_down(&self.mounted_at).map_err(told)
    }

    /// Takes it down after a cut and mounts what is left. Nobody may use it.
    pub fn come_back(&mut self) -> Result<(), String> {
        self.take_down()?;
        self.mount_outer()?;
        self.mount()
    }

    fn take_down(&mut self) -> Result<(), String> {
        if self.mounted {
            unmount(&self.mounted_at)?;
            self.mounted = false;
        }
        if self.outer_mounted
            && let Some((_, outer)) = &self.outer
        {
            unmount(outer)?;
            self.outer_mounted = false;
        }
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("kernel: left behind: {error}");
        }
    }
}

fn make_image(path: &Path, bytes: u64, maker: &str, arguments: &[&str]) -> Result<(), String> {
    let made = File::create(path).and_then(|file| file.set_len(bytes));
    made.map_err(|error| format!("{}: {error}", path.display()))?;
    let path = path.to_string_lossy();
    let arguments: Vec<&str> = arguments.iter().copied().chain([&*path]).collect();
    program(maker, &arguments).map(|_| ())
}

fn mount_loop(image: &Path, mount: &Path, options: &str) -> Result<(), String> {
    let (image, mount) = (image.to_string_lossy(), mount.to_string_lossy());
    program("mount", &["-o", options, &image, &mount]).map(|_| ())
}

//! Kernels as distributions ship them: packages, an image with its modules, and where they are kept once unpacked; the QEMU that runs them.

mod apt;
mod cache;
mod deb;
mod fetch;
mod module;
mod qemu;

pub use cache::Cache;
pub use deb::Deb;
pub use fetch::Mirror;
pub use module::{Module, Modules};
pub use qemu::{fetch_qemu, find_qemu};

use crate::error::{Error, io_at};
use crate::image::KernelImage;
use std::path::{Path, PathBuf};

/// A kernel that can be started and steered.
#[derive(Debug)]
pub struct Kernel {
    /// What it is called in reports: its release, with the version behind it where that says more.
    pub name: String,
    /// Its version with the stable number.
    pub version: (u32, u32, u32),
    /// The file with the raw image.
    pub file: PathBuf,
    /// The image, read.
    pub image: KernelImage,
    /// Its modules.
    pub modules: Modules,
}

impl Kernel {
    /// Opens a kernel: one or more Debian packages that hold an image and its modules, or an `Image` file with a folder of modules.
    ///
    /// # Errors
    /// What is missing or damaged, with the file it was looked for in.
    pub fn open(files: &[PathBuf], modules: Option<&Path>, cache: &Cache) -> Result<Self, Error> {
        let (file, modules) = match (files, modules) {
            ([image], Some(folder)) => (image.clone(), Modules::in_folder(folder)?),
            (packages, None) if packages.iter().all(|file| is_package(file)) => {
                let folder = cache.unpacked(packages)?;
                (folder.join(cache::IMAGE), Modules::in_folder(&folder.join(cache::MODULES))?)
            }
            _ => {
                // A name that was mistyped is the likelier mistake.
                for file in files {
                    std::fs::metadata(file).map_err(io_at(file))?;
                }
                let what = "give packages (.deb), or one Image and the folder of its modules";
                return Err(Error::Fetch(what.into()));
            }
        };
        let bytes = std::fs::read(&file).map_err(io_at(&file))?;
        let image = KernelImage::read(&bytes).map_err(|error| match error {
            Error::Image(what) => Error::File { path: file.clone(), what },
            other => other,
        })?;
        let file = cache.raw(&file, &bytes, &image.bytes)?;
        let version = image.version()?;
        Ok(Self { name: name(&image, version)?, version, file, image, modules })
    }
}

fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "deb")
}

/// `6.1.0-56-arm64 (6.1.192)`, or only the release where that has the version.
fn name(image: &KernelImage, (major, minor, stable): (u32, u32, u32)) -> Result<String, Error> {
    let release = image.release()?;
    let full = format!("{major}.{minor}.{stable}");
    Ok(match release.starts_with(&full) {
        true => release.to_owned(),
        false => format!("{release} ({full})"),
    })
}

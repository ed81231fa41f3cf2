//! Where unpacked kernels are kept between runs.

use super::{Deb, Kernel};
use crate::error::{Error, io_at};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// The raw image in a kernel's folder.
pub(crate) const IMAGE: &str = "Image";
/// The modules in a kernel's folder.
pub(crate) const MODULES: &str = "modules";

/// Folders below `kernel/` of a module tree that the boards' modules and what they need come from. The rest of a tree is a hundred megabytes that nobody loads.
const FOLDERS: &[&str] = &[
    "arch/",
    "block/",
    "crypto/",
    "drivers/char/hw_random/",
    "drivers/net/ethernet/intel/e1000e/",
    "drivers/nvme/",
    "drivers/pps/",
    "drivers/ptp/",
    "drivers/regulator/",
    "drivers/virtio/",
    "lib/",
];

/// A folder of kernels, laid out as the XDG base directory specification asks.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/portcullis`, or `~/.cache/portcullis`.
    ///
    /// # Errors
    /// [`Error::Fetch`] if neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn of_user() -> Result<Self, Error> {
        let set = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let base = base.ok_or_else(|| {
            Error::Fetch(
                "neither XDG_CACHE_HOME nor HOME is set: set one, kernels are kept below it".into(),
            )
        })?;
        Ok(Self::at(&base.join("portcullis")))
    }

    /// A cache in `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A folder inside, made if it is not there.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).map_err(io_at(&path))?;
        Ok(path)
    }

    /// Where downloaded packages are kept.
    pub(crate) fn packages(&self) -> Result<PathBuf, Error> {
        self.folder("packages")
    }

    /// The file of a package that was downloaded before; the one whose name comes last where there are several.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder of packages cannot be made.
    pub fn package(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        let prefix = format!("{name}_");
        let fits = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        };
        Ok(inside(&self.packages()?).filter(fits).max())
    }

    /// Every kernel that was unpacked before, in the order of their folders' names. One that cannot be read is left out.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder of kernels cannot be made.
    pub fn kernels(&self) -> Result<Vec<Kernel>, Error> {
        let mut folders: Vec<PathBuf> = inside(&self.folder("kernels")?).collect();
        folders.sort();
        let open = |folder: PathBuf| {
            Kernel::open(&[folder.join(IMAGE)], Some(&folder.join(MODULES)), self).ok()
        };
        Ok(folders.into_iter().filter_map(open).collect())
    }

    /// The folder with image and modules of these packages, unpacked unless that was done before.
    pub(crate) fn unpacked(&self, packages: &[PathBuf]) -> Result<PathBuf, Error> {
        let folder = self.folder("kernels")?.join(folder_name(packages)?);
        if folder.join(IMAGE).exists() {
            return Ok(folder);
        }
        // Unpacked beside its place and moved there as a whole, so that an interrupted run leaves nothing that looks complete.
        let fresh = folder.with_extension(format!("{}.part", std::process::id()));
        let modules = fresh.join(MODULES);
        std::fs::create_dir_all(&modules).map_err(io_at(&modules))?;
        let mut images = 0;
        for package in packages {
            Deb::new(package).each(
                |path| is_image(path) || is_module(path),
                |path, bytes| {
                    let target = match is_image(path) {
                        true => fresh.join(IMAGE),
                        false => modules.join(path.rsplit('/').next().unwrap_or(path)),
                    };
                    images += usize::from(is_image(path));
                    std::fs::write(&target, bytes).map_err(io_at(&target))
                },
            )?;
        }
        if images != 1 {
            let _ = std::fs::remove_dir_all(&fresh);
            let what = format!("{images} kernel images in these packages, one is needed");
            return Err(Error::File { path: packages[0].clone(), what });
        }
        match std::fs::rename(&fresh, &folder) {
            // Another run was faster: its folder holds the same.
            Err(_) if folder.join(IMAGE).exists() => {
                let _ = std::fs::remove_dir_all(&fresh);
            }
            other => other.map_err(io_at(&folder))?,
        }
        Ok(folder)
    }

    /// A file with the raw image: the file itself, or an unpacked copy.
    pub(crate) fn raw(&self, file: &Path, bytes: &[u8], raw: &[u8]) -> Result<PathBuf, Error> {
        if bytes == raw {
            return Ok(file.to_owned());
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let path = self.folder("images")?.join(format!("{:016x}", hasher.finish()));
        std::fs::write(&path, raw).map_err(io_at(&path))?;
        Ok(path)
    }
}

/// What is in a folder.
fn inside(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The packages' file names and sizes: another build of the same name has another folder.
fn folder_name(packages: &[PathBuf]) -> Result<String, Error> {
    let mut hasher = DefaultHasher::new();
    let mut name = String::new();
    for package in packages {
        let len = std::fs::metadata(package).map_err(io_at(package))?.len();
        let stem = package.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        (&stem, len).hash(&mut hasher);
        if name.is_empty() {
            name = stem;
        }
    }
    let safe = |c: char| if c.is_ascii_alphanumeric() || "+-_".contains(c) { c } else { '-' };
    Ok(format!(
        "{}-{:08x}",
        name.chars().map(safe).collect::<String>(),
        hasher.finish() & 0xffff_ffff
    ))
}

/// `boot/vmlinuz-*`, or `vmlinuz` among the modules (Debian from 6.19 on).
fn is_image(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    (path.starts_with("boot/") && file.starts_with("vmlinuz"))
        || (path.contains("lib/modules/") && file == "vmlinuz")
}

fn is_module(path: &str) -> bool {
    let inside = path.split_once("/kernel/").map(|(_, inside)| inside);
    path.contains("lib/modules/")
        && inside.is_some_and(|path| FOLDERS.iter().any(|folder| path.starts_with(folder)))
}

#[cfg(test)]
mod tests {
    use super::super::deb::package;
    use super::*;

    #[test]
    fn packages_are_unpacked_once() {
        let folder = crate::scratch::Folder::new("cache");
        let cache = Cache::at(&folder.path().join("cache"));
        let file = |name: &str, files: &[(&str, &[u8])]| {
            let path = folder.path().join(name);
            std::fs::write(&path, package(files)).expect("the folder is ours");
            path
        };
        let image = file("binary.deb", &[("usr/lib/modules/7/vmlinuz", b"image")]);
        let modules = file(
            "modules.deb",
            &[
                ("usr/lib/modules/7/kernel/drivers/nvme/host/nvme.ko.xz", b"nvme"),
                ("usr/lib/modules/7/kernel/sound/snd.ko.xz", b"sound"),
            ],
        );
        let packages = [image.clone(), modules.clone()];
        let unpacked = cache.unpacked(&packages).expect("the packages are whole");
        assert_eq!(std::fs::read(unpacked.join(IMAGE)).ok(), Some(b"image".to_vec()));
        assert!(unpacked.join(MODULES).join("nvme.ko.xz").exists());
        assert!(!unpacked.join(MODULES).join("snd.ko.xz").exists());
        std::fs::write(unpacked.join(IMAGE), b"kept").expect("the folder is ours");
        let again = cache.unpacked(&packages).expect("the packages are whole");
        assert_eq!(std::fs::read(again.join(IMAGE)).ok(), Some(b"kept".to_vec()));
        let error = cache.unpacked(&[modules]).expect_err("no image in it");
        assert_eq!(cache.kernels().expect("a folder").len(), 0, "`kept` is no kernel");
        assert_eq!(cache.package("modules").expect("a folder"), None);
        for name in ["busybox_1.deb", "busybox_2.deb", "busybox-static_1.deb"] {
            std::fs::write(cache.packages().expect("a folder").join(name), b"").expect("ours");
        }
        let found = cache.package("busybox").expect("a folder").expect("it is there");
        assert_eq!(found.file_name().and_then(|name| name.to_str()), Some("busybox_2.deb"));
        assert!(
            error.to_string().ends_with("0 kernel images in these packages, one is needed"),
            "{error}"
        );
    }
}

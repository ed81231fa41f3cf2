//! Kernel modules: where a tree has them and what they need.

use crate::error::{Error, io_at};
use crate::image::decompress;
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A module, decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name as `insmod` and `/proc/modules` write it: with underscores.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// The modules of a kernel, by name.
#[derive(Debug, Default)]
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Every module below `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn in_folder(folder: &Path) -> Result<Self, Error> {
        let mut modules = Self::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).map_err(io_at(&folder))? {
                let path = entry.map_err(io_at(&folder))?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if let Some(name) = name_of(&path) {
                    modules.files.insert(name, path);
                }
            }
        }
        Ok(modules)
    }

    /// The module `name` behind everything that it needs; nothing if the kernel has it built in (or does not have it).
    ///
    /// # Errors
    /// A module that another one needs and that is missing, or a damaged file.
    pub fn with_dependencies(&self, name: &str) -> Result<Vec<Module>, Error> {
        let mut order = Vec::new();
        if self.files.contains_key(name) {
            self.collect(name, &mut order, 0)?;
        }
        Ok(order)
    }

    fn collect(&self, name: &str, order: &mut Vec<Module>, depth: u32) -> Result<(), Error> {
        if order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let path = self.files.get(name).filter(|_| depth < 32);
        let path = path.ok_or_else(|| Error::Fetch(format!("the module `{name}` is missing")))?;
        let bytes = read(path)?;
        for needed in
            dependencies(&bytes).map_err(|what| Error::File { path: path.clone(), what })?
        {
            self.collect(&needed, order, depth + 1)?;
        }
        order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// `nvme-core.ko.xz` is `nvme_core`.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = std::fs::read(path).map_err(io_at(path))?;
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(bytes),
    };
    decompress(kind, &bytes)
        .map_err(|error| Error::File { path: path.to_owned(), what: error.to_string() })
}

/// The `depends=` line of the section `.modinfo` (include/linux/module.h, `MODULE_INFO`).
fn dependencies(elf: &[u8]) -> Result<Vec<String>, String> {
    let file = object::File::parse(elf).map_err(|error| error.to_string())?;
    let section = file.section_by_name(".modinfo").ok_or("no section .modinfo")?;
    let lines = section.data().map_err(|error| error.to_string())?;
    let depends = lines.split(|&byte| byte == 0).find_map(|line| line.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(depends.unwrap_or_default()).replace('-', "_");
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relocatable ELF file for AArch64 with one section `.modinfo`, by the ELF specification's tables.
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64, 64 + modinfo.len());
        let table = (names_at + names.len()).next_multiple_of(8);
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        out.extend([1_u16, 183].into_iter().flat_map(u16::to_le_bytes));
        out.extend(1_u32.to_le_bytes());
        out.extend([0, 0, table as u64].into_iter().flat_map(u64::to_le_bytes));
        out.extend(0_u32.to_le_bytes());
        out.extend([64_u16, 0, 0, 64, 3, 2].into_iter().flat_map(u16::to_le_bytes));
        out.extend(modinfo);
        out.extend(names);
        out.resize(table + 64, 0);
        for (name, kind, at, len) in
            [(1_u32, 1_u32, info_at, modinfo.len()), (10, 3, names_at, names.len())]
        {
            out.extend([name, kind].into_iter().flat_map(u32::to_le_bytes));
            out.extend(
                [0, 0, at as u64, len as u64, 0, 1, 0].into_iter().flat_map(u64::to_le_bytes),
            );
        }
        out
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let folder = crate::scratch::Folder::new("modules");
        let write = |name: &str, depends: &str| {
            let path = folder.path().join(name);
            std::fs::write(
                path,
                elf(format!("license=GPL\0depends={depends}\0name=x\0").as_bytes()),
            )
            .expect("the folder is ours");
        };
        write("nvme.ko", "nvme-core,t10-pi");
        write("nvme-core.ko", "t10-pi");
        write("t10-pi.ko", "");
        write("lost.ko", "gone");
        std::fs::write(folder.path().join("readme"), "x").expect("the folder is ours");
        let modules = Modules::in_folder(folder.path()).expect("the folder is there");
        let names = |name: &str| -> Vec<String> {
            let found = modules.with_dependencies(name).expect("all are there");
            found.into_iter().map(|module| module.name).collect()
        };
        assert_eq!(names("nvme"), ["t10_pi", "nvme_core", "nvme"]);
        assert!(names("built_in").is_empty());
        let error = modules.with_dependencies("lost").expect_err("a dependency is missing");
        assert_eq!(error.to_string(), "the module `gone` is missing");
    }

    #[test]
    fn names_of_files() {
        let name = |file: &str| name_of(Path::new(file));
        assert_eq!(name("a/nvme-core.ko.xz").as_deref(), Some("nvme_core"));
        assert_eq!(name("fixed.ko").as_deref(), Some("fixed"));
        assert_eq!(name("modules.kooky"), None);
    }
}

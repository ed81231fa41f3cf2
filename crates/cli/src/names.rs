//! Short names of IOMMUs: the last part of a path, or the whole path where another one ends the same.

use std::collections::HashMap;

/// How often each last part is met.
#[derive(Debug)]
pub(crate) struct ShortNames<'a> {
    met: HashMap<&'a str, usize>,
}

impl<'a> ShortNames<'a> {
    /// For a machine with these IOMMUs.
    pub(crate) fn new(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut met = HashMap::new();
        paths.into_iter().for_each(|path| *met.entry(last_part(path)).or_default() += 1);
        Self { met }
    }

    /// The short name of the IOMMU at `path`.
    pub(crate) fn of<'p>(&self, path: &'p str) -> &'p str {
        let short = last_part(path);
        if self.met.get(short).is_some_and(|times| *times > 1) { path } else { short }
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::ShortNames;

    #[test]
    fn two_that_end_the_same_keep_their_paths() {
        let names = ShortNames::new(["/a/iommu@0", "/b/iommu@0", "/a/iommu@1"]);
        assert_eq!(names.of("/a/iommu@0"), "/a/iommu@0");
        assert_eq!(names.of("/b/iommu@0"), "/b/iommu@0");
        assert_eq!(names.of("/a/iommu@1"), "iommu@1");
    }
}

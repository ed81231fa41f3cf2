//! Formats with a planted bug: a real one, all of whose methods but one are its own.

/// The methods of `Format` that go to the real format in field 0.
macro_rules! as_the_real_one {
    ($real:ty: $($method:ident)*) => {
        fn new(
            params: &portcullis_pgtable::TableParams,
        ) -> Result<(Self, portcullis_pgtable::Geometry), portcullis_pgtable::TableError> {
            <$real>::new(params).map(|(format, geometry)| (Self(format), geometry))
        }
        $(as_the_real_one!(@ $method);)*
    };
    (@ root) => {
        fn root(&self, geometry: &portcullis_pgtable::Geometry, root: portcullis_addr::PhysAddr, levels: u8) -> portcullis_pgtable::TableRoot {
            self.0.root(geometry, root, levels)
        }
    };
    (@ leaf_bits) => {
        fn leaf_bits(&self, prot: portcullis_addr::Prot) -> Option<u64> {
            self.0.leaf_bits(prot)
        }
    };
    (@ leaf) => {
        fn leaf(&self, bits: u64, phys: u64, level: portcullis_pgtable::Level, size_log2: u32) -> u64 {
            self.0.leaf(bits, phys, level, size_log2)
        }
    };
    (@ table) => {
        fn table(&self, table: portcullis_addr::PhysAddr, level: portcullis_pgtable::Level) -> u64 {
            self.0.table(table, level)
        }
    };
    (@ is_table) => {
        fn is_table(&self, entry: u64, level: portcullis_pgtable::Level) -> bool {
            self.0.is_table(entry, level)
        }
    };
    (@ presence) => {
        fn presence(&self, leaf: u64) -> u64 {
            self.0.presence(leaf)
        }
    };
    (@ is_leaf) => {
        fn is_leaf(&self, entry: u64, level: portcullis_pgtable::Level) -> bool {
            self.0.is_leaf(entry, level)
        }
    };
    (@ table_address) => {
        fn table_address(&self, entry: u64) -> u64 {
            self.0.table_address(entry)
        }
    };
    (@ leaf_size) => {
        fn leaf_size(&self, leaf: u64, level: portcullis_pgtable::Level) -> u32 {
            self.0.leaf_size(leaf, level)
        }
    };
    (@ leaf_address) => {
        fn leaf_address(&self, leaf: u64, level: portcullis_pgtable::Level) -> u64 {
            self.0.leaf_address(leaf, level)
        }
    };
    (@ prot) => {
        fn prot(&self, leaf: u64) -> portcullis_addr::Prot {
            self.0.prot(leaf)
        }
    };
}
pub(crate) use as_the_real_one;

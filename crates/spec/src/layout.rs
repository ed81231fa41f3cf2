//! What a layout is made of: fields in 64-bit words, registers at offsets, numbered codes.

/// A bit field of a register or of an entry that is an array of 64-bit words.
///
/// # Invariants
///
/// `width >= 1` and `lo + width <= 64`: no field crosses a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    name: &'static str,
    word: u8,
    lo: u8,
    width: u8,
}

impl Field {
    /// The field that the document calls `name` and prints as bits `[hi:lo]` of the whole structure.
    ///
    /// # Panics
    ///
    /// When the field would cross a 64-bit word; layouts are constants, so that stops the build.
    pub const fn new(name: &'static str, hi: u16, lo: u16) -> Self {
        assert!(hi >= lo && hi / 64 == lo / 64 && hi < 64 * 256, "a field lies in one 64-bit word");
        // INVARIANT: checked on the line above.
        Self { name, word: (lo / 64) as u8, lo: (lo % 64) as u8, width: (hi - lo + 1) as u8 }
    }

    /// The document's name.
    #[inline]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Index of the 64-bit word that holds it; 0 for registers.
    #[inline]
    pub const fn word(self) -> usize {
        self.word as usize
    }

    /// Its lowest bit within the word.
    #[inline]
    pub const fn lo(self) -> u32 {
        self.lo as u32
    }

    /// Its width in bits, 1..=64.
    #[inline]
    pub const fn width(self) -> u32 {
        self.width as u32
    }

    /// Its lowest bit within the whole structure, as the document prints it.
    #[inline]
    pub const fn bit(self) -> u32 {
        self.word as u32 * 64 + self.lo as u32
    }

    /// The largest value that it can hold.
    #[inline]
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - self.width)
    }

    /// Ones where the field is, within its word.
    #[inline]
    pub const fn mask(self) -> u64 {
        self.max() << self.lo
    }

    /// The field's value in `word`.
    #[inline]
    pub const fn get(self, word: u64) -> u64 {
        (word >> self.lo) & self.max()
    }

    /// Whether any bit of the field is set in `word`.
    #[inline]
    pub const fn is_set(self, word: u64) -> bool {
        word & self.mask() != 0
    }

    /// The field's bits of `word`, left where they are: what an address field means, whose low bits are zero.
    #[inline]
    pub const fn in_place(self, word: u64) -> u64 {
        word & self.mask()
    }

    /// `value` moved to where the field is, zeros elsewhere. Bits that do not fit are dropped (and caught by debug builds).
    #[inline]
    pub const fn of(self, value: u64) -> u64 {
        debug_assert!(value <= self.max(), "value does not fit its field");
        (value & self.max()) << self.lo
    }

    /// `word` with the field replaced by `value`.
    #[inline]
    pub const fn with(self, word: u64, value: u64) -> u64 {
        word & !self.mask() | self.of(value)
    }

    /// The field's value in an entry.
    ///
    /// # Panics
    ///
    /// When the entry has fewer words than the layout.
    #[inline]
    pub const fn read(self, entry: &[u64]) -> u64 {
        self.get(entry[self.word as usize])
    }

    /// Replaces the field in an entry.
    ///
    /// # Panics
    ///
    /// When the entry has fewer words than the layout.
    #[inline]
    pub const fn write(self, entry: &mut [u64], value: u64) {
        entry[self.word as usize] = self.with(entry[self.word as usize], value);
    }
}

/// A register: where it is, how wide, and its fields.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// The document's name without its prefix.
    pub name: &'static str,
    /// Byte offset from the base of the block.
    pub offset: usize,
    /// 32 or 64.
    pub bits: u8,
    /// Its fields, lowest first.
    pub fields: &'static [Field],
}

/// A structure in memory: its size and its fields.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The document's name.
    pub name: &'static str,
    /// Size in 64-bit words.
    pub words: usize,
    /// Its fields, lowest first.
    pub fields: &'static [Field],
}

/// A number that the document gives a name: an opcode, an event, an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// The document's name.
    pub name: &'static str,
    /// The number.
    pub value: u64,
}

/// Declares registers: a constant each, and a module of field constants. `prefix` is what the document puts before each name.
macro_rules! registers {
    (prefix $prefix:literal; $($module:ident $register:ident $name:literal $offset:literal $bits:literal $doc:literal {
        $($field:ident $field_name:literal [$hi:literal : $lo:literal] $field_doc:literal;)*
    })*) => {
        $(
            #[doc = concat!("`", $prefix, $name, "`: ", $doc)]
            pub const $register: $crate::Register = $crate::Register {
                name: $name, offset: $offset, bits: $bits, fields: $module::FIELDS,
            };
            #[doc = concat!("Fields of `", $prefix, $name, "`: ", $doc)]
            pub mod $module {
                $(
                    #[doc = concat!("`", $field_name, "`, bits `[", $hi, ":", $lo, "]`: ", $field_doc)]
                    pub const $field: $crate::Field = $crate::Field::new($field_name, $hi, $lo);
                )*
                /// All of them.
                pub const FIELDS: &[$crate::Field] = &[$($field),*];
            }
        )*
        /// Every register of this module.
        pub const REGISTERS: &[$crate::Register] = &[$($register),*];
    };
}

/// Declares the fields of one structure in memory, inside the module that is named after it.
macro_rules! layout {
    ($name:literal, $words:literal words {
        $($field:ident $field_name:literal [$hi:literal : $lo:literal] $field_doc:literal;)*
    }) => {
        $(
            #[doc = concat!("`", $field_name, "`, bits `[", $hi, ":", $lo, "]`: ", $field_doc)]
            pub const $field: $crate::Field = $crate::Field::new($field_name, $hi, $lo);
        )*
        /// Size in 64-bit words.
        pub const WORDS: usize = $words;
        /// Size in bytes.
        pub const BYTES: usize = WORDS * 8;
        #[doc = concat!("The whole layout of `", $name, "`.")]
        pub const LAYOUT: $crate::Layout =
            $crate::Layout { name: $name, words: WORDS, fields: &[$($field),*] };
    };
}

/// Declares numbers with the document's names.
macro_rules! codes {
    ($($code:ident $name:literal = $value:literal $doc:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "` = ", stringify!($value), ": ", $doc)]
            pub const $code: u64 = $value;
        )*
        /// All of them, by the document's names.
        pub const CODES: &[$crate::Code] =
            &[$($crate::Code { name: $name, value: $code }),*];
    };
}

pub(crate) use {codes, layout, registers};

#[cfg(test)]
mod tests {
    use super::Field;

    #[test]
    fn fields_read_back_what_was_written_and_touch_nothing_else() {
        for (hi, lo) in [(0, 0), (3, 1), (63, 59), (63, 0), (65, 64), (127, 76), (247, 196)] {
            let field = Field::new("F", hi, lo);
            assert_eq!(field.bit(), u32::from(lo));
            for background in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
                let mut entry = [background; 4];
                let value = 0xa5a5_a5a5_a5a5_a5a5 & field.max();
                field.write(&mut entry, value);
                assert_eq!(field.read(&entry), value);
                assert_eq!(field.in_place(entry[field.word()]), value << field.lo());
                for (index, word) in entry.iter().enumerate() {
                    let untouched = if index == field.word() { !field.mask() } else { u64::MAX };
                    assert_eq!(word & untouched, background & untouched);
                }
            }
        }
    }
}

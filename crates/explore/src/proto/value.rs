//! What a function of a protocol may return: anything that fits into 64 bits.

/// A value that a collapsed call can be replaced by. `from_bits(to_bits(v))` is `v`.
pub trait Value: Copy {
    /// The value as bits.
    fn to_bits(self) -> u64;
    /// The value of these bits, which [`Value::to_bits`] made.
    fn from_bits(bits: u64) -> Self;
}

impl Value for () {
    fn to_bits(self) -> u64 {
        0
    }

    fn from_bits(_: u64) -> Self {}
}

impl Value for bool {
    fn to_bits(self) -> u64 {
        u64::from(self)
    }

    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
}

macro_rules! integers {
    ($($t:ty),*) => { $(
        impl Value for $t {
            fn to_bits(self) -> u64 {
                self as u64
            }

            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        }
    )* };
}
integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64);

/// `None` is 0, `Some(v)` is one more than the bits of `v`, so `v` must not use all 64.
impl<T: Value> Value for Option<T> {
    fn to_bits(self) -> u64 {
        self.map_or(0, |v| {
            v.to_bits().checked_add(1).expect("the value inside leaves one code free")
        })
    }

    fn from_bits(bits: u64) -> Self {
        bits.checked_sub(1).map(T::from_bits)
    }
}

/// Each half must fit into 32 bits.
impl<A: Value, B: Value> Value for (A, B) {
    fn to_bits(self) -> u64 {
        let (a, b) = (self.0.to_bits(), self.1.to_bits());
        assert!(a >> 32 == 0 && b >> 32 == 0, "each half of a pair fits into 32 bits");
        a << 32 | b
    }

    fn from_bits(bits: u64) -> Self {
        (A::from_bits(bits >> 32), B::from_bits(bits & 0xffff_ffff))
    }
}

/// `Ok` is even, `Err` is odd; each side must fit into 63 bits.
impl<T: Value, E: Value> Value for Result<T, E> {
    fn to_bits(self) -> u64 {
        let (bits, tag) = match self {
            Ok(v) => (v.to_bits(), 0),
            Err(e) => (e.to_bits(), 1),
        };
        assert!(bits >> 63 == 0, "each side of a result fits into 63 bits");
        bits << 1 | tag
    }

    fn from_bits(bits: u64) -> Self {
        if bits & 1 == 0 { Ok(T::from_bits(bits >> 1)) } else { Err(E::from_bits(bits >> 1)) }
    }
}

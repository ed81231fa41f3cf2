//! Objects that are allocated and freed, and the detection of their use after that.

use super::builder::{NULL_POINTER, USE_AFTER_FREE};
use super::{Builder, Field, Shared, Step, Thread, Value};

/// A kind of object, with a fixed number of places for objects of it.
#[derive(Debug, Clone)]
pub struct Pool {
    name: String,
    /// For each place: bit 0 says whether an object is there, the bits above count how many there were.
    life: Vec<Field>,
    /// For each field of the kind, that field of each place.
    fields: Vec<Vec<Field>>,
}

/// A field of every object of one [`Pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolField(usize);

/// A pointer to an object: its place and generation, or [`Obj::NULL`]. It fits into [`Obj::BITS`] bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Obj(u16);

const GENERATION_BITS: u32 = 2;
const PLACE_BITS: u32 = 5;

impl Obj {
    /// The pointer to nothing; its bits are 0.
    pub const NULL: Self = Self(0);
    /// The width of a field that holds a pointer.
    pub const BITS: u32 = PLACE_BITS + GENERATION_BITS + 1;

    /// Whether it points to nothing.
    #[must_use]
    pub fn is_null(self) -> bool {
        self == Self::NULL
    }

    fn new(place: usize, generation: u64) -> Self {
        Self(1 << (Self::BITS - 1) | (generation as u16) << PLACE_BITS | place as u16)
    }

    fn place(self) -> usize {
        usize::from(self.0 & ((1 << PLACE_BITS) - 1))
    }

    /// What the place's life reads while this object is there.
    fn life(self) -> u64 {
        u64::from(self.0 >> PLACE_BITS) << 1 & LIFE_MASK | 1
    }
}

const LIFE_MASK: u64 = (1 << (GENERATION_BITS + 1)) - 1;

impl Value for Obj {
    fn to_bits(self) -> u64 {
        self.0.into()
    }

    fn from_bits(bits: u64) -> Self {
        Self(bits as u16)
    }
}

impl Builder {
    /// A kind of object, `places` of which (at most 32) can be there at a time. A place is used again as soon as
    /// it is free; a pointer that outlives its object is told apart for the next three objects there.
    ///
    /// # Panics
    /// If there are more than 32 places.
    pub fn pool(&mut self, name: impl Into<String>, places: usize) -> Pool {
        let name = name.into();
        assert!(places <= 1 << PLACE_BITS, "{name}: at most {} places", 1 << PLACE_BITS);
        let life = (0..places).map(|i| format!("{name}[{i}]"));
        let life: Vec<Field> = life.map(|n| self.field(n, GENERATION_BITS + 1)).collect();
        Pool { name, life, fields: Vec::new() }
    }

    /// A field of each object of `pool`, 0 in a new object.
    pub fn pool_field(&mut self, pool: &mut Pool, name: &str, bits: u32) -> PoolField {
        let places = 0..pool.life.len();
        let fields = places.map(|i| self.field(format!("{}[{i}]->{name}", pool.name), bits));
        pool.fields.push(fields.collect());
        PoolField(pool.fields.len() - 1)
    }
}

impl Thread<'_> {
    /// Allocates an object, or gives [`Obj::NULL`] if every place is taken: one step.
    ///
    /// # Errors
    /// [`Pause`](super::Pause), to be passed on.
    pub fn alloc(&mut self, pool: &Pool, why: &str) -> Step<Obj> {
        let pool = pool.clone();
        self.update(&format!("allocate {} ({why})", pool.name), move |s| {
            let free = (0..pool.life.len()).find(|&i| s.get(pool.life[i]) & 1 == 0);
            let Some(place) = free else { return Obj::NULL };
            let before = s.get(pool.life[place]);
            let life = (before + 1) & LIFE_MASK;
            // Nobody has a pointer to the first object in a place before this step: it disturbs nobody.
            let fresh = before == 0;
            s.init(pool.life[place], life, fresh);
            pool.fields.iter().for_each(|f| s.init(f[place], 0, fresh));
            Obj::new(place, life >> 1)
        })
    }

    /// Frees an object: one step. Freeing it twice violates `use-after-free`.
    ///
    /// # Errors
    /// [`Pause`](super::Pause), to be passed on; the thread dies if `object` is null.
    pub fn free(&mut self, pool: &Pool, object: Obj, why: &str) -> Step<()> {
        self.dereference(object, &pool.name)?;
        let life = pool.life[object.place()];
        self.update(&format!("free {} ({why})", pool.name), move |s| {
            if is_alive(s, life, object) {
                s.set(life, (object.life() + 1) & LIFE_MASK);
            }
        })
    }

    /// Reads a field of an object: one step. If the object is gone, this violates `use-after-free` and reads
    /// what is there now.
    ///
    /// # Errors
    /// [`Pause`](super::Pause), to be passed on; the thread dies if `object` is null.
    pub fn read_at(&mut self, pool: &Pool, object: Obj, field: PoolField, why: &str) -> Step<u64> {
        self.dereference(object, &pool.name)?;
        let (life, field) = (pool.life[object.place()], pool.fields[field.0][object.place()]);
        let what = format!("read {} ({why})", self.field_name(field));
        self.update(&what, move |s| {
            is_alive(s, life, object);
            s.get(field)
        })
    }

    /// Writes a field of an object: one step. If the object is gone, this violates `use-after-free` and
    /// changes what is there now.
    ///
    /// # Errors
    /// [`Pause`](super::Pause), to be passed on; the thread dies if `object` is null.
    pub fn write_at(
        &mut self,
        pool: &Pool,
        object: Obj,
        field: PoolField,
        value: impl Value,
        why: &str,
    ) -> Step<()> {
        self.dereference(object, &pool.name)?;
        let (life, field) = (pool.life[object.place()], pool.fields[field.0][object.place()]);
        let value = value.to_bits();
        let what = format!("{} = {value} ({why})", self.field_name(field));
        self.update(&what, move |s| {
            is_alive(s, life, object);
            s.set(field, value);
        })
    }

    /// The thread dies if `object` is null, which violates `null-pointer`.
    fn dereference(&mut self, object: Obj, kind: &str) -> Step<()> {
        if object.is_null() { self.die(NULL_POINTER, &format!("{kind} is NULL")) } else { Ok(()) }
    }
}

fn is_alive(s: &mut Shared<'_>, life: Field, object: Obj) -> bool {
    let alive = s.get(life) == object.life();
    if !alive {
        s.hit(USE_AFTER_FREE);
    }
    alive
}

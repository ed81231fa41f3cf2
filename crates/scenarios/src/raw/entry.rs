//! Stream table entries and context descriptors (IHI 0070, 5.2 and 5.4).

use super::{Granule, Tree};
use portcullis_addr::PhysAddr;
use portcullis_spec::Field;
use portcullis_spec::smmuv3::{
    address_size, cacheability, cd, shareability,
    ste::{self, granule0},
};

/// A stream table entry.
pub type Ste = [u64; 8];
/// A context descriptor.
pub type Cd = [u64; 8];

/// Adds an address whose low bits are zero.
pub fn put_address(entry: &mut [u64; 8], field: Field, address: PhysAddr) {
    entry[field.word()] |= field.in_place(address.raw());
}

/// `SHCFG` stays 0: it is reserved where `IDR1.ATTR_TYPES_OVR` is 0, as on both platforms (5.2).
fn valid(config: u64) -> Ste {
    let mut entry = [0; 8];
    ste::V.write(&mut entry, 1);
    ste::CONFIG.write(&mut entry, config);
    entry
}

/// Refuse everything, record nothing.
pub fn abort() -> Ste {
    valid(ste::config::ABORT)
}

/// Pass everything.
pub fn bypass() -> Ste {
    valid(ste::config::BYPASS)
}

fn with_stage_one(entry: &mut Ste, descriptor: PhysAddr) {
    put_address(entry, ste::S1_CONTEXT_PTR, descriptor);
    ste::S1CIR.write(entry, cacheability::WRITE_BACK);
    ste::S1COR.write(entry, cacheability::WRITE_BACK);
    ste::S1CSH.write(entry, shareability::INNER);
}

fn with_stage_two(entry: &mut Ste, vmid: u64, tree: &Tree) {
    ste::S2VMID.write(entry, vmid);
    ste::S2T0SZ.write(entry, 64 - u64::from(tree.input_bits()));
    ste::S2SL0.write(entry, tree.stage_two_start());
    ste::S2IR0.write(entry, cacheability::WRITE_BACK);
    ste::S2OR0.write(entry, cacheability::WRITE_BACK);
    ste::S2SH0.write(entry, shareability::INNER);
    ste::S2TG.write(entry, granule_code(tree.granule()));
    ste::S2PS.write(entry, address_size::BITS_44);
    ste::S2AA64.write(entry, 1);
    ste::S2R.write(entry, 1);
    put_address(entry, ste::S2TTB, tree.root());
}

/// Stage 1 as the descriptor says.
pub fn stage_one(descriptor: PhysAddr) -> Ste {
    let mut entry = valid(ste::config::S1);
    with_stage_one(&mut entry, descriptor);
    entry
}

/// Stage 2 through `tree`.
pub fn stage_two(vmid: u64, tree: &Tree) -> Ste {
    let mut entry = valid(ste::config::S2);
    with_stage_two(&mut entry, vmid, tree);
    entry
}

/// Stage 1 as the descriptor (at an intermediate address) says, then stage 2 through `tree`.
pub fn nested(descriptor: PhysAddr, vmid: u64, tree: &Tree) -> Ste {
    let mut entry = valid(ste::config::NESTED);
    with_stage_one(&mut entry, descriptor);
    with_stage_two(&mut entry, vmid, tree);
    entry
}

/// The descriptor of the address space `tree`, tagged `asid`: faults are recorded and abort.
pub fn context(asid: u64, tree: &Tree) -> Cd {
    let mut entry = [0; 8];
    cd::T0SZ.write(&mut entry, 64 - u64::from(tree.input_bits()));
    cd::TG0.write(&mut entry, granule_code(tree.granule()));
    cd::IR0.write(&mut entry, cacheability::WRITE_BACK);
    cd::OR0.write(&mut entry, cacheability::WRITE_BACK);
    cd::SH0.write(&mut entry, shareability::INNER);
    cd::EPD1.write(&mut entry, 1);
    cd::V.write(&mut entry, 1);
    cd::IPS.write(&mut entry, address_size::BITS_44);
    cd::AA64.write(&mut entry, 1);
    cd::R.write(&mut entry, 1);
    cd::A.write(&mut entry, 1);
    cd::ASET.write(&mut entry, 1);
    cd::ASID.write(&mut entry, asid);
    put_address(&mut entry, cd::TTB0, tree.root());
    // Attribute 0: normal memory, write-back.
    cd::MAIR0.write(&mut entry, 0xff);
    entry
}

fn granule_code(granule: Granule) -> u64 {
    match granule {
        Granule::K4 => granule0::K4,
        Granule::K16 => granule0::K16,
        Granule::K64 => granule0::K64,
    }
}

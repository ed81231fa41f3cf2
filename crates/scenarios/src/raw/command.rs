//! Commands (IHI 0070, chapter 4).

use portcullis_spec::smmuv3::command::{self, CFGI_ALL_RANGE, OPCODE, cfgi, opcode, tlbi};

/// A command in the queue.
pub type Words = [u64; 2];

fn of(opcode: u64) -> Words {
    let mut words = [0; 2];
    OPCODE.write(&mut words, opcode);
    words
}

/// `CMD_SYNC`, completion told by the read index alone.
pub fn sync() -> Words {
    of(opcode::SYNC)
}

/// `CMD_SYNC` that raises an interrupt.
pub fn sync_with_interrupt() -> Words {
    let mut words = of(opcode::SYNC);
    command::sync::CS.write(&mut words, command::sync::cs::IRQ);
    words
}

/// A command that does not exist.
pub fn illegal() -> Words {
    of(0xff)
}

/// `CMD_CFGI_STE`, leaf only.
pub fn cfgi_ste(stream: u32) -> Words {
    let mut words = of(opcode::CFGI_STE);
    cfgi::STREAM_ID.write(&mut words, stream.into());
    cfgi::LEAF.write(&mut words, 1);
    words
}

/// `CMD_CFGI_STE_RANGE` for the 2^(`range` + 1) streams around `stream`.
pub fn cfgi_ste_range(stream: u32, range: u64) -> Words {
    let mut words = of(opcode::CFGI_STE_RANGE);
    cfgi::STREAM_ID.write(&mut words, stream.into());
    cfgi::RANGE.write(&mut words, range);
    words
}

/// `CMD_CFGI_ALL`.
pub fn cfgi_all() -> Words {
    cfgi_ste_range(0, CFGI_ALL_RANGE)
}

/// `CMD_CFGI_CD` of substream 0, leaf only.
pub fn cfgi_cd(stream: u32) -> Words {
    let mut words = of(opcode::CFGI_CD);
    cfgi::STREAM_ID.write(&mut words, stream.into());
    cfgi::LEAF.write(&mut words, 1);
    words
}

/// `CMD_CFGI_CD_ALL`.
pub fn cfgi_cd_all(stream: u32) -> Words {
    let mut words = of(opcode::CFGI_CD_ALL);
    cfgi::STREAM_ID.write(&mut words, stream.into());
    words
}

/// `CMD_TLBI_NSNH_ALL`.
pub fn tlbi_nsnh_all() -> Words {
    of(opcode::TLBI_NSNH_ALL)
}

/// `CMD_TLBI_NH_ALL` of VMID 0.
pub fn tlbi_nh_all() -> Words {
    of(opcode::TLBI_NH_ALL)
}

/// `CMD_TLBI_NH_ASID`.
pub fn tlbi_nh_asid(asid: u64) -> Words {
    let mut words = of(opcode::TLBI_NH_ASID);
    tlbi::ASID.write(&mut words, asid);
    words
}

fn at(mut words: Words, address: u64) -> Words {
    tlbi::LEAF.write(&mut words, 1);
    words[tlbi::ADDRESS.word()] |= tlbi::ADDRESS.in_place(address);
    words
}

/// `CMD_TLBI_NH_VA`, leaf only.
pub fn tlbi_nh_va(asid: u64, address: u64) -> Words {
    let mut words = of(opcode::TLBI_NH_VA);
    tlbi::ASID.write(&mut words, asid);
    at(words, address)
}

/// `CMD_TLBI_NH_VAA`, leaf only.
pub fn tlbi_nh_vaa(address: u64) -> Words {
    at(of(opcode::TLBI_NH_VAA), address)
}

/// `CMD_TLBI_NH_VA` for `pages` pages of 4 KiB from `address` on (needs `IDR3.RIL`).
pub fn tlbi_nh_va_range(asid: u64, address: u64, pages: u64) -> Words {
    let mut words = tlbi_nh_va(asid, address);
    tlbi::NUM.write(&mut words, pages - 1);
    tlbi::TG.write(&mut words, tlbi::tg::K4);
    words
}

/// `CMD_TLBI_S12_VMALL`.
pub fn tlbi_s12_vmall(vmid: u64) -> Words {
    let mut words = of(opcode::TLBI_S12_VMALL);
    tlbi::VMID.write(&mut words, vmid);
    words
}

/// `CMD_TLBI_S2_IPA`, leaf only.
pub fn tlbi_s2_ipa(vmid: u64, address: u64) -> Words {
    let mut words = of(opcode::TLBI_S2_IPA);
    tlbi::VMID.write(&mut words, vmid);
    at(words, address)
}

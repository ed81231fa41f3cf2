//! How bytes are recognised: every device has a word of its own that it writes, and reads land elsewhere in its buffer.

use crate::bench::{Bench, Client, Failure};
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::PageLayout;

/// What a word is filled with before a device may write it.
const BACKGROUND: u32 = 0x5a5a_5a5a;
/// Where a device's own word is in its buffer.
const OWN_OFFSET: usize = 0;
/// Where what it reads goes.
pub(crate) const LANDING_OFFSET: usize = 1024;

/// What `client` writes.
fn own_word(client: Client) -> u32 {
    0xd0c0_b0a0 + client as u32
}

/// Fills every device's buffer with its own word. The SMMU must let everything pass, as it does out of reset.
pub(crate) fn load(bench: &dyn Bench) -> Result<(), Failure> {
    let page = allocate(bench, 4096)?;
    for client in Client::ALL {
        bench.write_bytes(page, &own_word(client).to_le_bytes());
        bench.device_reads(client, Iova::new(page.raw()), OWN_OFFSET, 4)?;
    }
    Ok(())
}

/// Lets `client` write its word at `iova`; whether it arrived at `phys`.
pub(crate) fn write(
    bench: &dyn Bench,
    client: Client,
    iova: u64,
    phys: PhysAddr,
) -> Result<bool, Failure> {
    bench.write_bytes(phys, &BACKGROUND.to_le_bytes());
    bench.device_writes(client, Iova::new(iova), OWN_OFFSET, 4)?;
    match word(bench, phys) {
        BACKGROUND => Ok(false),
        word if word == own_word(client) => Ok(true),
        word => Err(Failure(format!("{phys} holds {word:#x} after a write"))),
    }
}

/// The 32-bit word in memory at `phys`.
pub(crate) fn word(bench: &dyn Bench, phys: PhysAddr) -> u32 {
    let mut bytes = [0; 4];
    bench.read_bytes(phys, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// Zeroed memory on its natural boundary.
pub(crate) fn allocate(bench: &dyn Bench, bytes: usize) -> Result<PhysAddr, Failure> {
    let layout = PageLayout::naturally_aligned(bytes.max(64))
        .ok_or_else(|| Failure(format!("no layout of {bytes} bytes")))?;
    bench.memory().allocate(layout).map_err(|error| Failure(error.to_string()))
}

/// A line for a report.
pub(crate) fn outcome(landed: bool, events: &[String]) -> String {
    let bytes = if landed { "landed" } else { "blocked" };
    if events.is_empty() { bytes.to_owned() } else { format!("{bytes}; {}", events.join(" | ")) }
}

/// Physical addresses differ from machine to machine; reports must not.
pub(crate) fn target(iova: u64, phys: PhysAddr) -> String {
    if iova == phys.raw() { "its physical address".to_owned() } else { format!("{iova:#x}") }
}

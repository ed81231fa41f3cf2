//! Requests as the device reads them (§5.13.6).

use portcullis_addr::{Iova, PhysAddr, Prot, StreamId};
use portcullis_spec::virtio::iommu::{map, request};

/// 64-bit words of the longest request that the device reads.
pub(crate) const WORDS: usize = request::PROBE_BYTES.div_ceil(8);

/// A request without its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) words: [u64; WORDS],
    pub(crate) bytes: usize,
}

impl Command {
    /// The head and the 32-bit number behind it: a domain, or an endpoint.
    fn new(kind: u8, number: u32, bytes: usize) -> Self {
        let mut words = [0; WORDS];
        words[0] = u64::from(kind) | u64::from(number) << 32;
        Self { words, bytes }
    }

    /// Attaches an endpoint; in a domain that `bypasses` its addresses pass unchanged.
    pub(crate) fn attach(domain: u32, endpoint: StreamId, bypasses: bool) -> Self {
        let mut command = Self::new(request::ATTACH, domain, request::ATTACH_BYTES);
        let flags = if bypasses { request::ATTACH_BYPASS } else { 0 };
        command.words[1] = u64::from(endpoint.raw()) | u64::from(flags) << 32;
        command
    }

    pub(crate) fn detach(domain: u32, endpoint: StreamId) -> Self {
        let mut command = Self::new(request::DETACH, domain, request::DETACH_BYTES);
        command.words[1] = endpoint.raw().into();
        command
    }

    /// Maps `len` bytes, which are not 0.
    pub(crate) fn map(domain: u32, iova: Iova, phys: PhysAddr, len: u64, flags: u32) -> Self {
        let mut command = Self::new(request::MAP, domain, request::MAP_BYTES);
        command.words[1] = iova.raw();
        command.words[2] = iova.raw().wrapping_add(len - 1);
        command.words[3] = phys.raw();
        command.words[4] = flags.into();
        command
    }

    /// Unmaps all mappings that lie in `len` bytes, which are not 0.
    pub(crate) fn unmap(domain: u32, iova: Iova, len: u64) -> Self {
        let mut command = Self::new(request::UNMAP, domain, request::UNMAP_BYTES);
        command.words[1] = iova.raw();
        command.words[2] = iova.raw().wrapping_add(len - 1);
        command
    }

    pub(crate) fn probe(endpoint: StreamId) -> Self {
        Self::new(request::PROBE, endpoint.raw(), request::PROBE_BYTES)
    }

    pub(crate) fn is_unmap(&self) -> bool {
        self.words[0] as u8 == request::UNMAP
    }
}

/// The flags of a MAP: what the endpoint may do. That the target is device memory is said only where the device wants to hear it.
pub(crate) fn map_flags(prot: Prot, tells_mmio: bool) -> u32 {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    flag(prot.contains(Prot::READ), map::READ)
        | flag(prot.contains(Prot::WRITE), map::WRITE)
        | flag(prot.contains(Prot::MMIO) && tells_mmio, map::MMIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(command: &Command) -> std::vec::Vec<u8> {
        let all: std::vec::Vec<u8> = command.words.iter().flat_map(|it| it.to_le_bytes()).collect();
        all[..command.bytes].to_vec()
    }

    /// Typed from the structures of §5.13.6, byte for byte.
    #[test]
    fn requests_are_laid_out_as_the_document_prints_them() {
        let attach = Command::attach(7, StreamId::new(0x10), true);
        assert_eq!(bytes(&attach), [1, 0, 0, 0, 7, 0, 0, 0, 0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let detach = Command::detach(7, StreamId::new(0x1234));
        assert_eq!(bytes(&detach)[..12], [2, 0, 0, 0, 7, 0, 0, 0, 0x34, 0x12, 0, 0]);
        assert_eq!(bytes(&detach)[12..], [0; 8]);
        let (iova, phys) = (Iova::new(0x1_0000_2000), PhysAddr::new(0x8000_3000));
        let map = bytes(&Command::map(9, iova, phys, 0x2000, 3));
        assert_eq!(map[..8], [3, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(map[8..16], 0x1_0000_2000u64.to_le_bytes());
        assert_eq!(map[16..24], 0x1_0000_3fffu64.to_le_bytes(), "the last address");
        assert_eq!(map[24..32], 0x8000_3000u64.to_le_bytes());
        assert_eq!(map[32..], [3, 0, 0, 0]);
        let unmap = bytes(&Command::unmap(9, iova, 0x1000));
        assert_eq!((unmap[0], &unmap[16..24]), (4, &0x1_0000_2fffu64.to_le_bytes()[..]));
        assert_eq!((unmap.len(), &unmap[24..]), (28, &[0; 4][..]));
        let probe = bytes(&Command::probe(StreamId::new(5)));
        assert_eq!((probe.len(), &probe[..8]), (72, &[5, 0, 0, 0, 5, 0, 0, 0][..]));
    }

    #[test]
    fn device_memory_is_told_only_where_the_device_knows_the_flag() {
        let prot = Prot::READ | Prot::WRITE | Prot::MMIO;
        assert_eq!((map_flags(prot, true), map_flags(prot, false)), (7, 3));
        assert_eq!(map_flags(Prot::WRITE | Prot::CACHE, true), 2);
    }
}

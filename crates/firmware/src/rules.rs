//! Every rule: what it finds, an example, and what Linux does in that case.

use crate::finding::Severity;

/// A rule that descriptions are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable id: scripts may match on it.
    pub id: &'static str,
    /// How bad a finding of this rule is for an enabled device or IOMMU; for a disabled one an error becomes a warning.
    pub severity: Severity,
    /// What it finds, in one sentence.
    pub finds: &'static str,
    /// A description that has it.
    pub example: &'static str,
    /// What Linux (7.2 where no other version is named) does with such a description.
    pub linux: &'static str,
}

/// The rule with this id.
pub fn rule_named(id: &str) -> Option<&'static Rule> {
    rule::ALL.iter().find(|rule| rule.id == id)
}

/// The ids of all rules, and what each finds.
pub mod rule {
    use super::{Rule, Severity};

    macro_rules! rules {
        ($($name:ident $severity:ident $id:literal: $finds:literal, $example:literal, $linux:literal;)*) => {
            $(#[doc = $finds] pub const $name: &str = $id;)*
            /// Every rule there is: those of devicetree properties first, then those of ACPI tables.
            pub const ALL: &[Rule] = &[$(Rule {
                id: $id,
                severity: Severity::$severity,
                finds: $finds,
                example: $example,
                linux: $linux,
            }),*];
        };
    }

    rules! {
        IOMMUS_LENGTH Error "iommus-length":
            "`iommus` is empty or not a whole number of cells.",
            "iommus = [00 01 02];",
            "Takes it for \"no IOMMU\": the device probes with direct DMA.";
        DANGLING_PHANDLE Error "dangling-phandle":
            "A phandle names no node.",
            "iommus = <0x99 5>; with no node of phandle 0x99",
            "First entry: direct DMA. A later entry: the device is used with the ids before it.";
        DUPLICATE_PHANDLE Error "duplicate-phandle":
            "A phandle names several nodes.",
            "phandle = <1>; in two nodes",
            "Takes the first node that it finds.";
        SPECIFIER_TRUNCATED Error "specifier-truncated":
            "A specifier ends before its last cell.",
            "iommus = <&smmu>; where #iommu-cells = <1>",
            "First entry: direct DMA. A later entry: the device is used with the ids before it.";
        IOMMU_CELLS_MISSING Error "iommu-cells-missing":
            "A node is used as an IOMMU but has no `#iommu-cells`.",
            "iommus = <&uart 5>;",
            "Takes it for \"no IOMMU\": direct DMA.";
        IOMMU_CELLS_UNSUPPORTED Error "iommu-cells-unsupported":
            "`#iommu-cells` is not what the IOMMU's binding allows.",
            "#iommu-cells = <2>; on an arm,smmu-v3",
            "The driver refuses the specifier: the device's probe fails or goes on without the IOMMU.";
        MIXED_IOMMUS Error "mixed-iommus":
            "A device is behind IOMMUs of different kinds.",
            "iommus = <&smmuv3 5>, <&mmu500 5>;",
            "Refuses the second driver's IOMMU and treats the device as behind none: direct DMA.";
        PARTLY_DISABLED Error "partly-disabled":
            "A device names both an enabled and a disabled IOMMU.",
            "iommus = <&on 5>, <&off 5>;",
            "Stops at the disabled one and uses the device with the ids before it.";
        TOO_MANY_STREAMS Error "too-many-streams":
            "A device names more IOMMUs or ids than any machine has.",
            "iommus with 5000 entries",
            "Allocates them all.";
        STREAM_ID_RANGE Error "stream-id-range":
            "A stream id that this kind of IOMMU cannot receive.",
            "iommus = <&mmu500 0x10000>;",
            "Refuses the device's IOMMU at probe: direct DMA operations against hardware that aborts.";
        DUPLICATE_STREAM Note "duplicate-stream":
            "A device names the same stream twice; it counts once.",
            "iommus = <&smmu 5>, <&smmu 5>;",
            "Accepts it; on removal of the device SMMUv3's stream look-up loses all streams (6.12).";
        SHARED_STREAM Note "shared-stream":
            "Several devices share a stream: they form one group.",
            "iommus = <&smmu 5>; in two nodes",
            "SMMUv2: one group. SMMUv3: refuses the second device unless the driver's group callback aliases them.";
        STREAM_OVERLAP Error "stream-overlap":
            "A match entry (id and mask) overlaps an earlier one that does not contain it: two stream match registers would hit.",
            "iommus = <&smmu 0xc2e 0>; then iommus = <&smmu 0xc0e 0x20>;",
            "Refuses the second device (arm_smmu_find_sme: -EINVAL).";
        STREAM_TABLE_FULL Warning "stream-table-full":
            "More groups name an IOMMU than it has context banks, or more distinct streams than any SMMUv2 can match.",
            "#global-interrupts = <1>; 3 interrupts and 4 client groups",
            "Attaching the last ones fails with -ENOSPC.";
        IOMMU_DISABLED Warning "iommu-disabled":
            "The IOMMU that an enabled device names is disabled: the device's DMA is direct.",
            "status = \"disabled\"; on the IOMMU",
            "Direct DMA, as the binding says; the parent's dma-ranges count.";
        NO_DRIVER Note "no-driver":
            "No driver is known for the IOMMU: its clients stay blocked.",
            "compatible = \"example,iommu\";",
            "Defers the clients; after the deferral time-out they probe with direct DMA.";
        IOMMU_CYCLE Error "iommu-cycle":
            "An IOMMU is behind itself, directly or through others.",
            "smmu: iommu { iommus = <&smmu 0x20>; };",
            "No check in the parser; the IOMMU waits for itself.";
        IOMMU_REG Error "iommu-reg":
            "The IOMMU has no usable register window.",
            "no reg, or a bus above it without ranges",
            "The IOMMU's probe fails; its clients wait until the deferral time-out.";
        IOMMU_REG_SMALL Warning "iommu-reg-small":
            "The IOMMU's register window is smaller than its registers.",
            "reg = <0x2b400000 0x10000>; on an SMMUv3",
            "arm-smmu-v3 refuses to probe (\"MMIO region too small\").";
        IOMMU_QUIRK Error "iommu-quirk":
            "The IOMMU is marked with a defect that the driver does not work around.",
            "cavium,cn9900-broken-page1-regspace;",
            "Works around it.";
        IOMMU_UNUSABLE Error "iommu-unusable":
            "A device is behind an IOMMU that cannot be used as described.",
            "iommus = <&smmu 5>; where smmu has no reg",
            "Defers the device, then direct DMA.";
        GLOBAL_INTERRUPTS Warning "global-interrupts":
            "An SMMUv2 has no `#global-interrupts`, or no interrupts beyond that number.",
            "#global-interrupts = <2>; interrupts = <0 65 4>, <0 66 4>;",
            "Its probe fails (\"missing #global-interrupts property\", \"found 2 interrupts but expected at least 3\"); its clients wait until the deferral time-out.";
        SEVERAL_IOMMUS Note "several-iommus":
            "A device's streams lead to several SMMUs: one address space that all of them translate.",
            "iommus = <&smmu_a 5>, <&smmu_b 5>;",
            "Compares the drivers only: the second instance's ids are programmed into the first one.";
        FRAMEBUFFER_NOT_KEPT Note "framebuffer-not-kept":
            "Memory that boot firmware scans out, by a display behind an SMMU, has no `iommu-addresses`: the display is shut out as soon as its IOMMU is taken over.",
            "splash@9d400000 { reg = <...>; no-map; }; below reserved-memory, and a display behind an SMMU",
            "arm-smmu on Qualcomm's machines lets streams that firmware matches bypass until their driver attaches; elsewhere the display faults until then.";
        MMU_MASTERS Error "mmu-masters":
            "`mmu-masters`, the binding before `iommus`, is not read.",
            "mmu-masters = <&usb 1>;",
            "Not read either since 6.17; before, arm-smmu used it.";
        COHERENCY Note "coherency":
            "A device does not snoop the CPU's caches although its IOMMU's table walks do: its driver must maintain caches.",
            "dma-coherent; on the SMMU and not on the client",
            "Nothing; the DMA API maintains caches for that device.";
        IOMMU_MAP_LENGTH Error "iommu-map-length":
            "`iommu-map` is empty or not a whole number of tuples.",
            "iommu-map = <0 &smmu 0>;",
            "Error, then direct DMA.";
        IOMMU_MAP_CELLS Error "iommu-map-cells":
            "Tuples of `iommu-map` do not have the cells that the target's `#iommu-cells` asks for.",
            "iommu-map = <0 &smmu 0 0x100>; where #iommu-cells = <2>",
            "Since ccb2fd725d41 (7.2): reads wrong tuples or errors; before: assumed one cell.";
        IOMMU_MAP_ONE_CELL Note "iommu-map-one-cell":
            "`iommu-map` names a two-cell IOMMU with one-cell tuples, in the one form that can be read without doubt.",
            "iommu-map = <0 &smmu 0x1400 1>, <0x100 &smmu 0x1401 1>; where #iommu-cells = <2>",
            "Reads it as meant, with a warning (of_check_bad_map).";
        IOMMU_MAP_RANGE Error "iommu-map-range":
            "A range of several requester ids leads to an IOMMU with two id cells, so that no linear relation can be assumed.",
            "iommu-map = <0x100 &smmu 0x500 0xf 0x80>;",
            "-EINVAL for the ids of that range (\"cannot handle 128-ID range with 2-cell output specifier\").";
        IOMMU_MAP_OVERLAP Error "iommu-map-overlap":
            "Two ranges of `iommu-map` cover the same requester id.",
            "iommu-map = <0 &smmu 0 9>, <8 &smmu 8 8>;",
            "The first range wins, silently.";
        IOMMU_MAP_ZERO_LENGTH Warning "iommu-map-zero-length":
            "A range of `iommu-map` has length 0.",
            "iommu-map = <0 &smmu 0 0>, <8 &smmu 0x20 8>;",
            "Never matches; direct DMA for its ids.";
        IOMMU_MAP_PLACEHOLDER Note "iommu-map-placeholder":
            "`iommu-map` is a placeholder of length 0 that boot firmware fills in; until then the bus stays blocked.",
            "iommu-map = <0 &smmu 0 0>; on an fsl-mc bus",
            "Never matches; direct DMA if nobody filled it in.";
        IOMMU_MAP_EMPTY Error "iommu-map-empty":
            "No range of `iommu-map` covers any requester id.",
            "iommu-map = <8 &smmu 8 0>;",
            "Direct DMA.";
        IOMMU_MAP_WRAPS Error "iommu-map-wraps":
            "A range of `iommu-map` runs beyond 32 bits.",
            "iommu-map = <0xffff0000 &smmu 0 0x10001>;",
            "Before 7.2 the sum overflowed and the range never matched.";
        IOMMU_MAP_MASK Error "iommu-map-mask":
            "A requester id base has bits that `iommu-map-mask` clears.",
            "iommu-map-mask = <0xff00>; iommu-map = <0x8 ...>;",
            "-EFAULT, then direct DMA.";
        RID_NOT_MAPPED Warning "rid-not-mapped":
            "`iommu-map` covers no requester id that a described function can have; it stays blocked.",
            "iommu-map = <8 &smmu 0x20 8>; with a function eth@2,0",
            "Takes it for \"no IOMMU\": direct DMA.";
        RID_UNCERTAIN Note "rid-uncertain":
            "A described function's bus number comes from enumeration, and the id that is expected is not covered by `iommu-map`.",
            "a function behind two bridges of which only one has a range",
            "Looks the enumerated id up; direct DMA where it is not covered.";
        DUPLICATE_FUNCTION Note "duplicate-function":
            "Two nodes describe the same function of a bus; the first counts.",
            "wifi@0 and wlan@0 below one bridge",
            "Attaches the first node that matches.";
        MSI_MAP Warning "msi-map":
            "`msi-map` or `msi-parent` cannot be read.",
            "msi-map = <0 &its 0>;",
            "No MSI domain: devices fall back to wired interrupts.";
        DMA_RANGES Error "dma-ranges":
            "`dma-ranges` of a bus above the device cannot be read, or moves addresses of a device that no IOMMU translates.",
            "dma-ranges = <0 0 0>; on a bus with four-cell tuples",
            "Skips bad tuples; with none left the device's DMA set-up fails.";
        MEMORY_REGION Error "memory-region":
            "`memory-region` cannot be read.",
            "memory-region = [01];",
            "Ignores it.";
        IOMMU_ADDRESSES Error "iommu-addresses":
            "`iommu-addresses` of a reserved region cannot be read.",
            "iommu-addresses = <&display 0x90000000>;",
            "Stops reading the property there.";
        IOMMU_ADDRESSES_EMPTY Warning "iommu-addresses-empty":
            "An `iommu-addresses` entry has length 0.",
            "iommu-addresses = <&display 0 0>;",
            "Warns and skips it.";
        IOMMU_ADDRESSES_REMAPPED Note "iommu-addresses-remapped":
            "An `iommu-addresses` entry differs from the region's `reg`: reserved, but not mapped.",
            "reg = <0x90000000 0x1000>; iommu-addresses = <&display 0x5000 0x1000>;",
            "\"treating non-direct mapping as reservation\".";
        IOMMU_ADDRESSES_ROUNDED Note "iommu-addresses-rounded":
            "A region to be mapped 1:1 is no whole number of pages: all pages that it touches are mapped.",
            "reg = <0x83200036 0x119400>;",
            "Rounds start and end up (iommu_create_device_direct_mappings): the page in which the region begins is not mapped.";
        RESERVED_OVERLAP Warning "reserved-overlap":
            "A device's region to be mapped 1:1 overlaps a range that is kept free; the overlap is mapped.",
            "iommu-addresses inside a PCI window",
            "Maps the region and keeps both from being handed out.";
        RESERVED_CONFLICT Error "reserved-conflict":
            "Devices that share a group contradict each other: what is to be mapped 1:1 for one is kept free for another.",
            "iommu-addresses = <&display 0x90000000 0x1000>, <&codec 0x90000000 0x1000>; equal to reg for one of them only, and one stream",
            "Maps the region for all of the group, and keeps both from being handed out.";
        MEMORY Error "memory":
            "A `memory` node cannot be read.",
            "device_type = \"memory\"; without reg",
            "Ignores the node.";
        ACPI_CHECKSUM Warning "acpi-checksum":
            "The bytes of a table do not sum to 0.",
            "an IORT with one byte changed",
            "IVRS: refuses the table, and devices are direct. The others: warns and reads it.";
        ACPI_UNKNOWN Note "acpi-unknown":
            "A record of a type that no document read here names was skipped.",
            "an IVRS record of type 0x51",
            "Skips it.";
        ACPI_UNIT Error "acpi-unit":
            "A unit's registers are at no address.",
            "a DRHD with register base address 0",
            "\"not enabling IOMMU\": devices are direct.";
        ACPI_CONFLICT Error "acpi-conflict":
            "Two units claim the same requester ids.",
            "two DRHDs that both name 00:02.0",
            "The first unit that matches is used.";
        ACPI_ID_RANGE Warning "acpi-id-range":
            "An id mapping of a PCI root complex begins beyond the 16 bits of a requester id.",
            "input base 0x87030000",
            "No function matches: direct DMA.";
        ACPI_UNRESOLVED Note "acpi-unresolved":
            "A scope leads through a bridge: only enumeration can tell which functions it means, and they stay blocked until then.",
            "a DRHD scope of type 2 at 00:1c.0",
            "Matches each PCI function against the scopes when it is found.";
        ACPI_REGION Warning "acpi-region":
            "A reserved region has no length or runs backwards; it is left out.",
            "an RMRR whose limit is below its base",
            "RMRR: taints the kernel and uses it. IORT: continues anyway.";
        ACPI_UNTARGETED Note "acpi-untargeted":
            "An IORT id mapping has no target.",
            "output reference 0",
            "\"[Firmware Bug]: ID map has NULL parent reference\", no mapping.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_every_rule_is_documented() {
        let mut ids: alloc::vec::Vec<_> = rule::ALL.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rule::ALL.len());
        for rule in rule::ALL {
            assert!(rule.finds.ends_with('.') && rule.linux.ends_with('.'), "{}", rule.id);
            assert!(!rule.example.is_empty());
            assert_eq!(rule_named(rule.id), Some(rule));
        }
        assert_eq!(rule_named("no-such-rule"), None);
    }
}

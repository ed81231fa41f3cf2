//! The numbers of virtio and of the virtio-iommu, a second time: from the structures and tables of Virtual I/O Device 1.2 (5.13 and its headers, as Linux ships them in `include/uapi/linux/virtio_iommu.h`, `virtio_mmio.h` and `virtio_pci.h`), where an offset is the sum of
//! the sizes before it rather than a number.

use portcullis_spec::virtio::{self as spec, iommu};

/// The offset of each member of a structure of members of these sizes.
fn offsets<const N: usize>(sizes: [usize; N]) -> [usize; N] {
    let mut at = 0;
    sizes.map(|size| {
        at += size;
        at - size
    })
}

#[test]
fn the_configuration_is_the_documents_structure() {
    use iommu::config as it;
    let named = [
        it::PAGE_SIZE_MASK,
        it::INPUT_START,
        it::INPUT_END,
        it::DOMAIN_START,
        it::DOMAIN_END,
        it::PROBE_SIZE,
        it::BYPASS,
    ];
    assert_eq!(named, offsets([8, 8, 8, 4, 4, 4, 1]));
    assert_eq!(it::BYTES, 40, "three reserved bytes behind the last");
}

#[test]
fn the_common_configuration_of_a_function_is_the_documents_structure() {
    use spec::pci as it;
    // device_feature_select to queue_device; msix_config, num_queues and queue_msix_vector are not used.
    let all = offsets([4, 4, 4, 4, 2, 2, 1, 1, 2, 2, 2, 2, 2, 8, 8, 8]);
    let [dfs, df, gfs, gf, _, _, status, generation, select, size, _, enable, notify, d, a, u] =
        all;
    assert_eq!((it::DEVICE_FEATURE_SELECT, it::DEVICE_FEATURE), (dfs, df));
    assert_eq!((it::DRIVER_FEATURE_SELECT, it::DRIVER_FEATURE), (gfs, gf));
    assert_eq!((it::DEVICE_STATUS, it::CONFIG_GENERATION), (status, generation));
    assert_eq!((it::QUEUE_SELECT, it::QUEUE_SIZE), (select, size));
    assert_eq!((it::QUEUE_ENABLE, it::QUEUE_NOTIFY_OFFSET), (enable, notify));
    assert_eq!((it::QUEUE_DESCRIPTORS, it::QUEUE_DRIVER, it::QUEUE_DEVICE), (d, a, u));
    assert_eq!(it::COMMON_BYTES, u + 8);
}

#[test]
fn requests_are_as_long_as_their_structures() {
    use iommu::request as it;
    let head = 4;
    assert_eq!(it::ATTACH_BYTES, head + 4 + 4 + 4 + 4);
    assert_eq!(it::DETACH_BYTES, head + 4 + 4 + 8);
    assert_eq!(it::MAP_BYTES, head + 4 + 8 + 8 + 8 + 4);
    assert_eq!(it::UNMAP_BYTES, head + 4 + 8 + 8 + 4);
    assert_eq!(it::PROBE_BYTES, head + 4 + 64);
    assert_eq!((it::TAIL_BYTES, iommu::fault::BYTES), (1 + 3, 1 + 3 + 4 + 4 + 4 + 8));
    assert_eq!([it::ATTACH, it::DETACH, it::MAP, it::UNMAP, it::PROBE], [1, 2, 3, 4, 5]);
}

#[test]
fn offsets_of_registers() {
    use spec::mmio as it;
    let registers = [
        it::MAGIC,
        it::VERSION,
        it::DEVICE_ID,
        it::DEVICE_FEATURES,
        it::DEVICE_FEATURES_SELECT,
        it::DRIVER_FEATURES,
        it::DRIVER_FEATURES_SELECT,
        it::QUEUE_SELECT,
        it::QUEUE_SIZE_MAX,
        it::QUEUE_SIZE,
        it::QUEUE_READY,
        it::QUEUE_NOTIFY,
        it::INTERRUPT_STATUS,
        it::INTERRUPT_ACK,
        it::STATUS,
        it::QUEUE_DESCRIPTORS,
        it::QUEUE_DRIVER,
        it::QUEUE_DEVICE,
        it::CONFIG_GENERATION,
        it::CONFIG,
    ];
    let document = [
        0x00, 0x04, 0x08, 0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70,
        0x80, 0x90, 0xa0, 0xfc, 0x100,
    ];
    assert_eq!(registers, document);
    assert_eq!(it::MAGIC_VALUE.to_le_bytes(), *b"virt");
}

#[test]
fn numbers_of_bits_and_answers() {
    let status = [
        spec::status::ACKNOWLEDGE,
        spec::status::DRIVER,
        spec::status::DRIVER_OK,
        spec::status::FEATURES_OK,
        spec::status::NEEDS_RESET,
        spec::status::FAILED,
    ];
    assert_eq!(status, [1, 2, 4, 8, 0x40, 0x80]);
    let features = [
        iommu::feature::INPUT_RANGE,
        iommu::feature::DOMAIN_RANGE,
        iommu::feature::MAP_UNMAP,
        iommu::feature::BYPASS,
        iommu::feature::PROBE,
        iommu::feature::MMIO,
        iommu::feature::BYPASS_CONFIG,
    ];
    assert_eq!(features.map(u64::trailing_zeros), [0, 1, 2, 3, 4, 5, 6]);
    let common = [spec::feature::VERSION_1, spec::feature::ACCESS_PLATFORM];
    assert_eq!(common.map(u64::trailing_zeros), [32, 33]);
    use iommu::status as answer;
    let answers = [
        answer::OK,
        answer::IOERR,
        answer::UNSUPP,
        answer::DEVERR,
        answer::INVAL,
        answer::RANGE,
        answer::NOENT,
        answer::FAULT,
        answer::NOMEM,
    ];
    assert_eq!(answers, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((iommu::DEVICE_ID, iommu::REQUEST_QUEUE, iommu::EVENT_QUEUE), (23, 0, 1));
    assert_eq!((iommu::fault::READ, iommu::fault::WRITE, iommu::fault::ADDRESS), (1, 2, 0x100));
}

//! The facts behind `linux_corrections.rs`, read again in the sources: what stands where in which function.

use std::fs;
use std::path::Path;

use crate::kernel_sources::source;

/// The text of a function's definition, from its name to the brace that closes it.
fn function(tree: &Path, file: &str, name: &str) -> String {
    let text = fs::read_to_string(tree.join(file)).unwrap();
    let named = format!("{name}(");
    let definition = text.match_indices(&named).find_map(|(at, _)| {
        let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let body = &text[at..at + text[at..].find("\n}\n")?];
        let declared = body.find(';').is_some_and(|end| !body[..end].contains('{'));
        let indented = text[line..at].starts_with(['\t', ' ']);
        (!indented && !declared && !text[line..at].ends_with('_')).then_some(body)
    });
    definition.unwrap_or_else(|| panic!("{name} in {file}")).to_owned()
}

/// The places of words in a text, in the order in which they are asked for.
fn order(text: &str, words: &[&str]) -> Vec<usize> {
    let place = |word: &&str| text.find(*word).unwrap_or_else(|| panic!("{word:?} in {text}"));
    words.iter().map(place).collect()
}

#[test]
fn the_flag_comes_before_the_iova_space_since_direct_calls() {
    for version in ["6.12", "7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        let body = function(&tree, "drivers/iommu/dma-iommu.c", "iommu_setup_dma_ops");
        let stored = if version == "6.12" { "dev->dma_iommu = " } else { "dev_assign_dma_iommu(" };
        assert!(order(&body, &[stored, "iommu_dma_init_domain("]).is_sorted(), "{version}");
    }
    let Some(tree) = source("6.1") else { return };
    let body = function(&tree, "drivers/iommu/dma-iommu.c", "iommu_setup_dma_ops");
    assert!(order(&body, &["iommu_dma_init_domain(", "dev->dma_ops = &iommu_dma_ops"]).is_sorted());
}

#[test]
fn the_bits_share_a_row_until_7_2() {
    let Some(tree) = source("6.12") else { return };
    let header = fs::read_to_string(tree.join("include/linux/device.h")).unwrap();
    let even: String = header.split_whitespace().collect::<Vec<_>>().join(" ");
    for bit in ["can_match:1", "dma_coherent:1", "dma_skip_sync:1", "dma_iommu:1", "state_synced:1"]
    {
        assert!(even.contains(&format!("bool {bit};")), "{bit}");
    }
    for (file, name, store) in [
        ("drivers/base/dd.c", "__driver_probe_device", "dev->can_match = true"),
        ("arch/arm64/mm/dma-mapping.c", "arch_setup_dma_ops", "dev->dma_coherent = "),
        ("kernel/dma/mapping.c", "dma_setup_need_sync", "dev->dma_skip_sync = "),
    ] {
        assert!(function(&tree, file, name).contains(store), "{name}");
    }
    let Some(tree) = source("7.2") else { return };
    let header = fs::read_to_string(tree.join("include/linux/device.h")).unwrap();
    for flag in ["CAN_MATCH", "DMA_COHERENT", "DMA_SKIP_SYNC", "DMA_IOMMU", "STATE_SYNCED"] {
        assert!(header.contains(&format!("DEV_FLAG_{flag} =")), "{flag}");
    }
}

#[test]
fn a_failing_probe_gives_the_claim_back_first() {
    for version in ["6.1", "6.12", "7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        let body = function(&tree, "drivers/base/dd.c", "really_probe");
        let failed = &body[body.find("probe_failed:").unwrap()..];
        assert!(order(failed, &["dma_cleanup(dev)", "device_unbind_cleanup(dev)"]).is_sorted());
        if version != "6.1" {
            let probe = function(&tree, "drivers/base/dd.c", "__driver_probe_device");
            assert!(
                order(&probe, &["dev_ready_to_probe(dev)", "can_match"]).is_sorted(),
                "{version}"
            );
        }
    }
}

#[test]
fn messages_are_composed_under_the_group_mutex_since_6_15() {
    for version in ["6.1", "6.12"] {
        let Some(tree) = source(version) else { return };
        let body = function(&tree, "drivers/iommu/dma-iommu.c", "iommu_dma_prepare_msi");
        assert!(body.contains("iommu_get_domain_for_dev(dev)") && !body.contains("group->mutex"));
    }
    for version in ["7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        let body = function(&tree, "drivers/iommu/iommu.c", "iommu_dma_prepare_msi");
        let words = [
            "dev->iommu_group",
            "mutex_lock(&group->mutex)",
            "iommu_dma_sw_msi(group->domain",
            "mutex_unlock(&group->mutex)",
        ];
        assert!(order(&body, &words).is_sorted(), "{version}");
    }
}

#[test]
fn a_failing_walk_returns_before_its_list_is_emptied() {
    for version in ["6.1", "6.12", "7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        let body = function(&tree, "drivers/iommu/iommu.c", "bus_iommu_probe");
        let words = ["probe_iommu_group);", "return ret;", "list_for_each_entry_safe("];
        assert!(order(&body, &words).is_sorted(), "{version}");
        let v2 = "drivers/iommu/arm/arm-smmu/arm-smmu.c";
        let probe = function(&tree, v2, "arm_smmu_probe_device");
        assert!(order(&probe, &["-EINVAL", "out of range for SMMU"]).is_sorted(), "{version}");
    }
}

#[test]
fn release_is_what_each_version_has() {
    let core = "drivers/iommu/iommu.c";
    let Some(old) = source("6.1") else { return };
    let body = function(&old, core, "iommu_release_device");
    let words =
        ["ops->release_device(dev)", "iommu_group_remove_device(dev)", "dev_iommu_free(dev)"];
    assert!(order(&body, &words).is_sorted() && !body.contains("mutex_lock"));
    for version in ["6.12", "7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        let removal = function(&tree, core, "__iommu_group_remove_device");
        assert!(
            order(&removal, &["mutex_lock(", "iommu_deinit_device(dev)", "mutex_unlock("])
                .is_sorted()
        );
        assert!(function(&tree, core, "iommu_deinit_device").contains("ops->release_device(dev)"));
        let init = function(&tree, core, "iommu_init_device");
        assert!(
            order(&init, &["dev->iommu->iommu_dev = iommu_dev", "dev->iommu_group = group"])
                .is_sorted()
        );
        let asked = function(&tree, core, "remove_iommu_group");
        assert!(asked.contains("dev->iommu->iommu_dev == data") && !asked.contains("lock"));
    }
}

#[test]
fn each_bus_looks_at_the_driver_in_its_way() {
    for version in ["7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        let looks = |file: &str, name: &str| {
            let body = function(&tree, file, name);
            (body.contains("READ_ONCE(dev->driver)"), body.matches("dev->driver").count())
        };
        for (file, name) in [
            ("drivers/base/platform.c", "platform_dma_configure"),
            ("drivers/pci/pci-driver.c", "pci_dma_configure"),
            ("drivers/bus/fsl-mc/fsl-mc-bus.c", "fsl_mc_dma_configure"),
        ] {
            assert!(looks(file, name).0, "{version}: {name}");
        }
        for (file, name) in [
            ("drivers/amba/bus.c", "amba_dma_configure"),
            ("drivers/cdx/cdx.c", "cdx_dma_configure"),
        ] {
            let (once, times) = looks(file, name);
            assert!(!once && times >= 2, "{version}: {name} is repaired; give it a commit");
        }
        let cdx = function(&tree, "drivers/cdx/cdx.c", "cdx_dma_configure");
        assert!(cdx.trim_end().ends_with("return 0;"), "{version}: it returns what it found");
        let bus = fs::read_to_string(tree.join("drivers/gpu/host1x/context_bus.c")).unwrap();
        assert!(!bus.contains("dma_configure"));
        let contexts =
            function(&tree, "drivers/gpu/host1x/context.c", "host1x_memory_context_list_init");
        assert!(
            order(&contexts, &["device_add(", "of_dma_configure_id(", "device_iommu_mapped("])
                .is_sorted()
        );
    }
}

#[test]
fn the_type_file_asks_the_owners_and_6_1_the_device() {
    let core = "drivers/iommu/iommu.c";
    let Some(old) = source("6.1") else { return };
    let body = |tree: &Path| {
        let text = fs::read_to_string(tree.join(core)).unwrap();
        let at = text.rfind("static ssize_t iommu_group_store_type(").unwrap();
        text[at..at + text[at..].find("\n}\n").unwrap()].to_owned()
    };
    assert!(order(&body(&old), &["device_lock(dev)", "device_is_bound(dev)"]).is_sorted());
    let Some(new) = source("6.12") else { return };
    let words = [
        "mutex_lock(&group->mutex)",
        "group->owner_cnt",
        "iommu_setup_default_domain(group, req_type)",
        "iommu_setup_dma_ops(",
    ];
    assert!(order(&body(&new), &words).is_sorted());
}

//! Reserved regions of clients that share a group and contradict each other: the group gets no address space, so its clients stay blocked.

use super::overlap::{clients, clients_mut};
use crate::groups;
use crate::machine::DescribedDevice;
use crate::problem::{Findings, Problem};
use crate::rules::rule;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, DmaPath, merge_regions};

/// Refuses the clients of each group in which a region to be mapped 1:1 overlaps another client's region that is kept free. The core decides by the same rule.
pub(super) fn settle(devices: &mut [DescribedDevice], findings: &mut Findings) {
    let all: Vec<&DeviceDescription> = clients(devices).collect();
    let mut groups: BTreeMap<usize, Vec<&DeviceDescription>> = BTreeMap::new();
    let sets = groups::sets_of(all.iter().copied());
    for (client, set) in all.iter().zip(&sets).filter(|(client, _)| !client.reserved.is_empty()) {
        groups.entry(*set).or_default().push(client);
    }
    let problem = |members: &Vec<&DeviceDescription>| {
        let regions = members.iter().flat_map(|member| member.reserved.iter().copied());
        let error = merge_regions(regions.collect()).err()?;
        let remedy = "Linux maps the first for all of the group: keep the other away from it, or the devices apart";
        Some(Problem::new(rule::RESERVED_CONFLICT, error.to_string(), remedy))
    };
    let problems: BTreeMap<usize, Problem> = groups
        .iter()
        .filter_map(|(set, members)| problem(members).map(|problem| (*set, problem)))
        .collect();
    for (client, set) in all.iter().zip(&sets) {
        if let Some(problem) = problems.get(set) {
            findings.refuse(true, &client.path, problem);
        }
    }
    for (client, set) in clients_mut(devices).zip(&sets) {
        if let Some(problem) = problems.get(set) {
            client.dma = DmaPath::Unusable(problem.what.clone());
        }
    }
}

//! The seam for planted bugs inside the driver (feature `mutants`): what the filter drops or alters never reaches the unit.

use portcullis::{IommuOps, SpaceRequest, StreamSpec, StreamTarget};
use portcullis_addr::{Iova, PhysAddr, Prot, StreamId};
use portcullis_machine::{DmaRequest, Machine, MachinePlatform, Policy, Profile};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_smmuv3::{Command, CommandFilter, Options, Smmu};
use portcullis_spec::smmuv3::command::opcode;
use std::sync::{Arc, Mutex};

type Platform = MachinePlatform<HostThreads>;

const IOVA: Iova = Iova::new(0x1000);

/// Maps, lets the device write, unmaps strictly; whether the device still gets through, and the opcodes that the filter saw during the unmap.
fn outlives(drop: Option<u64>) -> (bool, Vec<u64>) {
    let machine = Machine::builder().policy(Policy::default()).build();
    let unit = machine.add_smmuv3(Profile::qemu10());
    let device = machine.add_client("client", &unit, StreamId::new(1));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let filter: CommandFilter = Arc::new(move |command: Command| {
        log.lock().expect("no test panics here").push(command.opcode());
        (Some(command.opcode()) != drop).then_some(command)
    });
    let options = Options { filter: Some(filter), ..Options::default() };
    let platform = Arc::new(Platform::new(&machine));
    let driver = Smmu::bring_up(platform, unit.registers(), options).expect("comes up");
    let support = *driver.capabilities().formats.first().expect("a format");
    let request = SpaceRequest { support, coherent_walk: true };
    let table = driver.create_space(&request).expect("a table");
    let tag = driver.bind_space(&table).expect("a tag");
    driver.claim(&[StreamSpec::exact(StreamId::new(1))]).expect("claimed");
    driver
        .attach(&[StreamSpec::exact(StreamId::new(1))], None, StreamTarget::Space(tag))
        .expect("attached");
    let frame = PhysAddr::new(0x5000_0000);
    let mut gather = IotlbGather::new();
    table.map(IOVA, frame, 0x1000, Prot::READ | Prot::WRITE, &mut gather).expect("mapped");
    let write = || machine.dma(device.id(), DmaRequest::write(IOVA, b"x")).is_completed();
    assert!(write());
    seen.lock().expect("no test panics here").clear();
    table.unmap(IOVA, 0x1000, &mut gather).expect("unmapped");
    driver.invalidate(tag, &gather).expect("believed");
    table.retire(gather.confirm());
    let during = seen.lock().expect("no test panics here").clone();
    (write(), during)
}

#[test]
fn the_filter_sees_every_command_and_what_it_drops_is_missed() {
    let wanted = vec![opcode::TLBI_NH_VA, opcode::SYNC];
    assert_eq!(outlives(None), (false, wanted.clone()));
    assert_eq!(outlives(Some(opcode::TLBI_NH_VA)), (true, wanted.clone()));
    assert_eq!(outlives(Some(opcode::SYNC)), (true, wanted), "a late unit needs the CMD_SYNC");
}

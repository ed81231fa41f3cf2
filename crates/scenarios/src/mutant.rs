//! The driver with one kind of invalidation dropped or misdirected.

use crate::bench::{Bench, Failure, QemuBench, SoftwareBench};
use crate::cases::{Scenario, all, named};
use crate::check::Check;
use portcullis_addr::PhysAddr;
use portcullis_qemu::Installation;
use portcullis_smmuv3::{Command, CommandFilter};
use portcullis_spec::smmuv3::command::{CFGI_ALL_RANGE, cfgi, opcode, tlbi};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

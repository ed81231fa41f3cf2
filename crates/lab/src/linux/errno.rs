//! The few error numbers that steer the probe path, as plain integers.
//!
//! They travel through the explorer as return values of kernel functions, so they are kept as the
//! positive numbers a person reads in a log (`-517` is [`EPROBE_DEFER`]).

/// What a kernel function returned: [`OK`] or a positive error number.
pub(crate) type Errno = u64;

/// Success.
pub(crate) const OK: Errno = 0;
/// Not permitted: the group has an owner.
pub(crate) const EPERM: Errno = 1;
/// Input or output error: a driver's own reason to fail.
pub(crate) const EIO: Errno = 5;
/// The group is in use by somebody else.
pub(crate) const EBUSY: Errno = 16;
/// No such device: "this device is behind no IOMMU of mine".
pub(crate) const ENODEV: Errno = 19;
/// An argument that makes no sense, such as a stream id out of range.
pub(crate) const EINVAL: Errno = 22;
/// The wait for a supplier was given up (`deferred_probe_timeout`).
pub(crate) const ETIMEDOUT: Errno = 110;
/// Try again after somebody else has bound.
pub(crate) const EPROBE_DEFER: Errno = 517;

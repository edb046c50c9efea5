//! Settings that user space hands over before load, as frozen globals or map values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes copied per turn before user space has given a verdict. A request head from curl, wrk or nginx takes 50 to
/// 250 bytes, a browser's with cookies 1 to 3 KiB; the copy costs only what is there.
pub const DEFAULT_BUDGET: u32 = 4096;
/// The most payload bytes that one call gives, over several records.
pub const MAX_PAYLOAD_PER_CALL: u32 = 256 * 1024;
/// The most iovecs that a probe reads of one call; the rest is counted (`iovecs_cut`).
pub const MAX_IOVECS: u32 = 8;
/// Payload classes of a data record (bytes reserved behind [`crate::Data`]).
pub const PAYLOAD_CLASSES: [u32; 4] = [256, 1024, 4096, 16_384];

/// Why a process is a target; value of the `TARGETS` map (key: pid).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Target {
    /// 1 = its children are targets too.
    pub follow: u32,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, one integer.
unsafe impl aya::Pod for Target {}

//! Time: boot time as the kernel stamps it, wall time as people read it, and the anchor that ties them.

use serde::{Deserialize, Serialize};

/// Boot time (`CLOCK_BOOTTIME`), nanoseconds. 0 = not known, in fields that say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Nanoseconds since `earlier`; negative when `earlier` is later.
    pub fn signed_since(self, earlier: BootTime) -> i64 {
        self.0.wrapping_sub(earlier.0) as i64
    }

    /// The time, or `None` when it is not known (0).
    pub fn known(self) -> Option<BootTime> {
        (self.0 != 0).then_some(self)
    }
}

/// Wall time, nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WallTime(pub u64);

/// One reading of both clocks at once. An event: taken at start, each minute and when the wall clock steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Boot time of the reading.
    pub boot: BootTime,
    /// Wall time of the same instant.
    pub wall: WallTime,
}

impl Anchor {
    /// Wall time of a boot time by this anchor. Integer arithmetic: the same on every machine.
    pub fn wall(self, at: BootTime) -> WallTime {
        WallTime(self.wall.0.wrapping_add_signed(at.signed_since(self.boot)))
    }
}

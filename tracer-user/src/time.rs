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

/// RFC 3339 (`2026-08-21T14:03:07.5Z`, `…+09:00`; a blank for the `T`), or nanoseconds since 1970.
impl std::str::FromStr for WallTime {
    type Err = WallTimeError;

    fn from_str(text: &str) -> Result<Self, WallTimeError> {
        if let Ok(ns) = text.parse() {
            return Ok(WallTime(ns));
        }
        parse_rfc3339(text).map(WallTime).ok_or_else(|| WallTimeError(text.to_owned()))
    }
}

/// A time that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a time such as 2026-08-21T14:03:07Z or nanoseconds since 1970")]
pub struct WallTimeError(String);

fn parse_rfc3339(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    };
    let separator =
        |at: usize, any: &[u8]| text.as_bytes().get(at).is_some_and(|b| any.contains(b)).then_some(());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    for (at, any) in [(4, b"-"), (7, b"-"), (13, b":"), (16, b":")] {
        separator(at, any)?;
    }
    separator(10, b"Tt ")?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if !(1..=9).contains(&end) {
            return None;
        }
        nanos = fraction[..end].parse::<i64>().ok()? * 10_i64.pow(9 - end as u32);
        rest = &fraction[end..];
    }
    let offset = match (rest, rest.as_bytes()) {
        ("Z" | "z", _) => 0,
        (_, [sign @ (b'+' | b'-'), _, _, b':', _, _]) => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at..at + 2)?, number(at + 3..at + 5)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3_600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    // Days since 1970 of a civil date: March first, so that the leap day ends a year (a 400-year era has 146,097 days).
    let shifted = year - i64::from(month <= 2);
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    u64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)).ok()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_rfc_3339_and_as_nanoseconds() {
        let read = |text: &str| text.parse::<WallTime>().ok().map(|time| time.0);
        assert_eq!(read("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2000-02-29T12:00:00Z"), Some(951_825_600_000_000_000));
        assert_eq!(read("2026-08-21 14:03:07.25Z"), Some(1_787_320_987_250_000_000));
        assert_eq!(read("2026-08-21T23:03:07+09:00"), read("2026-08-21T14:03:07Z"));
        assert_eq!(read("1787320987250000000"), Some(1_787_320_987_250_000_000));
        for bad in [
            "",
            "now",
            "2026-02-29T00:00:00Z",
            "2026-08-21",
            "2026-08-21T14:03:07",
            "2026-08-21T24:00:00Z",
            "2026-08-21T14:03:07.Z",
            "1969-12-31T23:59:59Z",
            "2026-08-21T14:03:07+9:00",
            "2026-08-21T14:03:07Zjunk",
            "\u{c8fc}026-08-21T14:03:07Z",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

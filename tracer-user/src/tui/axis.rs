//! What the XLog shows upwards: which value of a transaction, in which unit, from where to where.

use std::time::Duration;

use super::app::App;
use crate::{config::Span, report::format, transaction::Transaction};

const SECOND_NS: u64 = 1_000_000_000;
/// Lowest and highest top of an axis of time, ns, and of one of bytes.
pub(super) const TOPS_NS: std::ops::RangeInclusive<u64> = 1_000_000..=3_600 * SECOND_NS;
const TOPS_BYTES: std::ops::RangeInclusive<u64> = 1_024..=1 << 40;
/// Units of bytes, as in filters.
const UNITS: [(&str, u32); 4] = [("KB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];

/// The value that is shown upwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Axis {
    /// From the first request byte to the last response byte.
    #[default]
    Elapsed,
    /// From the last request byte to the first response byte.
    Ttfb,
    /// From the arrival of the request to its being read.
    Queue,
    /// From the first response byte to the last.
    Sending,
    /// Bytes of the request.
    RequestBytes,
    /// Bytes of the response.
    ResponseBytes,
}

impl Axis {
    /// All, in the order in which they follow each other.
    pub const ALL: [Axis; 6] =
        [Axis::Elapsed, Axis::Ttfb, Axis::Queue, Axis::Sending, Axis::RequestBytes, Axis::ResponseBytes];

    /// The axis that comes next.
    pub fn next(self) -> Axis {
        Axis::ALL[(self as usize + 1) % Axis::ALL.len()]
    }

    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Elapsed => "elapsed",
            Axis::Ttfb => "first byte",
            Axis::Queue => "queue",
            Axis::Sending => "sending",
            Axis::RequestBytes => "request bytes",
            Axis::ResponseBytes => "response bytes",
        }
    }

    fn is_bytes(self) -> bool {
        matches!(self, Axis::RequestBytes | Axis::ResponseBytes)
    }

    /// The value of a transaction; `None` where it is not known.
    pub fn value(self, row: &Transaction) -> Option<u64> {
        // No message is empty: without bytes none was seen.
        let bytes = |n: u64| Some(n).filter(|n| *n != 0);
        match self {
            Axis::Elapsed => Some(row.duration_ns.max(0).unsigned_abs()),
            Axis::Ttfb => row.ttfb_ns,
            Axis::Queue => row.queue_ns,
            // Both are of one clock; the end of what was cut off is no end of a response.
            Axis::Sending => row
                .response_start
                .filter(|_| row.end == crate::transaction::End::Answered)
                .and_then(|start| row.end_time.0.checked_sub(start.0)),
            Axis::RequestBytes => bytes(row.request_bytes),
            Axis::ResponseBytes => bytes(row.response_bytes),
        }
    }

    /// A value in words.
    pub fn text(self, value: u64) -> String {
        if !self.is_bytes() {
            return format::duration(value);
        }
        let Some((unit, shift)) = UNITS.into_iter().rev().find(|(_, shift)| value >> shift != 0) else {
            return format!("{value}B");
        };
        // Three digits, as durations have; cut, so that nothing is called more than it is.
        let hundredths = (u128::from(value) * 100) >> shift;
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        match (whole, rest) {
            (_, 0) => format!("{whole}{unit}"),
            (0..10, rest) => format!("{whole}.{rest:02}{unit}"),
            (10..100, rest) => format!("{whole}.{}{unit}", rest / 10),
            _ => format!("{whole}{unit}"),
        }
    }

    /// How much a fifth of the logarithmic axis stands for: as many steps as there are lines, each so many times the one below.
    pub fn step(self) -> u64 {
        if self.is_bytes() { 16 } else { 10 }
    }

    /// The top at the start.
    pub fn first_top(self) -> u64 {
        match self {
            Axis::Elapsed | Axis::Ttfb | Axis::Sending => 10 * SECOND_NS,
            Axis::Queue => SECOND_NS,
            Axis::RequestBytes => 1 << 20,
            Axis::ResponseBytes => 16 << 20,
        }
    }

    /// The nearest top that there is.
    pub fn top(self, value: u64) -> u64 {
        let tops = if self.is_bytes() { TOPS_BYTES } else { TOPS_NS };
        value.clamp(*tops.start(), *tops.end())
    }

    /// A higher top: a third of time (10 s, 13.3 s …), twice the bytes.
    pub fn higher(self, top: u64) -> u64 {
        self.top(if self.is_bytes() { top.saturating_mul(2) } else { top / 3 * 4 })
    }

    /// A lower top: 10 s, 7.5 s, 5.6 s …; half the bytes.
    pub fn lower(self, top: u64) -> u64 {
        self.top(if self.is_bytes() { top / 2 } else { top / 4 * 3 })
    }

    /// A top as it is typed, or what it is not.
    pub fn parse(self, text: &str) -> Result<u64, String> {
        if !self.is_bytes() {
            return match text.parse::<Span>() {
                Ok(Span(typed)) if typed > Duration::ZERO => {
                    Ok(self.top(u64::try_from(typed.as_nanos()).unwrap_or(u64::MAX)))
                }
                _ => Err(format!("'{text}' is not a duration such as 500ms or 9s")),
            };
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let shift = match unit {
            "" | "B" => Some(0),
            unit => {
                UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, shift)| shift)
            }
        };
        match (digits.parse::<f64>(), shift) {
            (Ok(n), Some(shift)) if n > 0.0 && n.is_finite() => {
                // A float becomes the nearest integer there is.
                Ok(self.top((n * (1_u64 << shift) as f64) as u64))
            }
            _ => Err(format!("'{text}' is not a size such as 64KB or 2MB")),
        }
    }
}

impl App {
    /// Shows the next axis, at its own top.
    pub(super) fn next_axis(&mut self) {
        self.show_axis(self.axis.next());
    }

    /// The top of an axis, shown or not.
    pub(super) fn top_of(&self, axis: Axis) -> u64 {
        if axis == self.axis { self.y_max_ns } else { self.tops[axis as usize] }
    }

    /// Shows an axis at its own top; that of the one before is kept.
    pub(super) fn show_axis(&mut self, axis: Axis) {
        self.tops[self.axis as usize] = self.y_max_ns;
        (self.axis, self.y_max_ns) = (axis, self.tops[axis as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sink::compliance::transaction,
        time::WallTime,
        transaction::End,
        tui::{
            app::Seen,
            chart::{ChartArea, Geometry, Scale},
            keymap::Key,
            view::Roles,
        },
    };

    fn press(app: &mut App, text: &str) {
        let area = ChartArea {
            width: 60,
            height: 10,
            end: WallTime(1_000 * SECOND_NS),
            window_ns: 300 * SECOND_NS,
            axis: app.axis,
            y_max_ns: app.y_max_ns,
            scale: Scale::Log,
            roles: Roles::Servers,
        };
        let seen =
            Seen { now: WallTime(1_000 * SECOND_NS), chart: Some(Geometry::of(area)), ..Seen::default() };
        for c in text.chars() {
            app.key(if c == '\n' { Key::Enter } else { Key::Char(c) }, &seen);
        }
    }

    #[test]
    fn each_axis_says_what_the_record_says_and_nothing_where_it_does_not() {
        let row = Transaction {
            duration_ns: 100,
            ttfb_ns: Some(20),
            queue_ns: Some(0),
            response_start: Some(WallTime(1_000)),
            end_time: WallTime(1_070),
            request_bytes: 80,
            response_bytes: 4_000,
            ..transaction(0)
        };
        let values = |row: &Transaction| Axis::ALL.map(|axis| axis.value(row));
        assert_eq!(values(&row), [Some(100), Some(20), Some(0), Some(70), Some(80), Some(4_000)]);
        let reset =
            Transaction { ttfb_ns: None, queue_ns: None, end: End::Reset, response_bytes: 0, ..row.clone() };
        assert_eq!(values(&reset), [Some(100), None, None, None, Some(80), None]);
        let early = Transaction { response_start: Some(WallTime(2_000)), duration_ns: -5, ..row };
        assert_eq!((Axis::Sending.value(&early), Axis::Elapsed.value(&early)), (None, Some(0)));
    }

    #[test]
    fn bytes_have_the_units_of_filters() {
        let text = |n| Axis::ResponseBytes.text(n);
        assert_eq!([0, 1_023, 1_024, 1_536, 65_536].map(text), ["0B", "1023B", "1KB", "1.50KB", "64KB"]);
        assert_eq!([(1 << 20) - 1, 16 << 20, 5 << 40].map(text), ["1023KB", "16MB", "5TB"]);
        let parse = |text| Axis::RequestBytes.parse(text);
        assert_eq!(
            ["64KB", "2mb", "4096", "1.5KB"].map(parse),
            [Ok(65_536), Ok(2 << 20), Ok(4_096), Ok(1_536)]
        );
        assert_eq!(["1", "9999TB"].map(parse), [Ok(1_024), Ok(1 << 40)], "within the bounds");
        for bad in ["", "KB", "-1KB", "5s", "0", "nan", "infKB"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Axis::Ttfb.parse("9s"), Ok(9 * SECOND_NS));
        assert!(Axis::Ttfb.parse("9KB").is_err());
    }

    #[test]
    fn tops_are_stepped_within_their_bounds() {
        for axis in Axis::ALL {
            let mut top = axis.first_top();
            assert_eq!(axis.top(top), top);
            for _ in 0..200 {
                top = axis.higher(top);
            }
            let highest = top;
            for _ in 0..200 {
                top = axis.lower(top);
            }
            assert!(top < axis.first_top() && axis.first_top() < highest);
            assert_eq!((axis.top(u64::MAX), axis.top(0)), (highest, top));
        }
    }

    #[test]
    fn each_axis_remembers_its_own_top_and_a_zoom_keeps_the_axis() {
        let mut app = App::default();
        press(&mut app, "2y5s\nYYYYy64KB\n");
        assert_eq!((app.axis, app.y_max_ns), (Axis::RequestBytes, 65_536));
        press(&mut app, "y7s\n");
        assert!(app.complaint.is_some() && app.y_max_ns == 65_536);
        press(&mut app, "k");
        assert_eq!(app.y_max_ns, 131_072);
        // The upper half, to the right.
        press(&mut app, "vlllvllllkkkkkkz");
        assert_eq!((app.axis, app.is_zoomed()), (Axis::RequestBytes, true));
        // From within the zoom another axis: it has its own top, and the way back leads to the axis before.
        press(&mut app, "YY");
        assert_eq!((app.axis, app.y_max_ns), (Axis::Elapsed, 5 * SECOND_NS));
        app.key(Key::Escape, &Seen::default());
        assert_eq!((app.axis, app.y_max_ns), (Axis::RequestBytes, 131_072));
        press(&mut app, "YY");
        assert_eq!((app.axis, app.y_max_ns), (Axis::Elapsed, 5 * SECOND_NS));
    }
}

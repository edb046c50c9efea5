//! Numbers, times and columns of text for people.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::{schema::civil_date, time::WallTime};

/// A duration with three significant digits: `950ns`, `1.23ms`, `12.3s`, `1h02m`.
pub fn duration(ns: u64) -> String {
    let units: [(u64, &str); 3] = [(1_000, "us"), (1_000_000, "ms"), (1_000_000_000, "s")];
    if ns < 1_000 {
        return format!("{ns}ns");
    }
    if ns >= 600_000_000_000 {
        let minutes = (ns + 30_000_000_000) / 60_000_000_000;
        return format!("{}h{:02}m", minutes / 60, minutes % 60);
    }
    let mut text = String::new();
    for (i, (unit, name)) in units.into_iter().enumerate() {
        // Rounded to three digits it may need the next unit: 999,999 ns is 1.00ms.
        let scaled = ns as f64 / unit as f64;
        text = match scaled {
            s if s < 9.995 => format!("{s:.2}{name}"),
            s if s < 99.95 => format!("{s:.1}{name}"),
            s => format!("{s:.0}{name}"),
        };
        if scaled < 999.5 || i == 2 {
            break;
        }
    }
    text
}

/// A count with thousands separated: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i != 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate per second: one decimal below 100, none above.
pub fn rate(n: u64, over_ns: u64) -> String {
    if over_ns == 0 {
        return "-".to_owned();
    }
    let rate = n as f64 * 1e9 / over_ns as f64;
    if rate < 99.95 { format!("{rate:.1}") } else { count(rate.round() as u64) }
}

/// Time of day, UTC: `14:03:07`.
pub fn clock(at: WallTime) -> String {
    let second = at.0 / 1_000_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// Date and time of day with milliseconds, UTC, as `--from` and `--to` take it: `2026-08-21T14:03:07.250Z`.
pub fn date_clock(at: WallTime) -> String {
    let (year, month, day) = civil(at);
    format!("{year:04}-{month:02}-{day:02}T{}.{:03}Z", clock(at), at.0 / 1_000_000 % 1_000)
}

/// Year, month and day, UTC.
pub fn civil(at: WallTime) -> (u64, u64, u64) {
    civil_date(at.0 / 86_400_000_000_000)
}

/// Which end of a text that is too long is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text on the left, blanks behind.
    Left,
    /// Blanks before, text on the right.
    Right,
}

/// Text made exactly `width` columns wide: blanks added, or cut with `…`. Wide characters count as the terminal counts.
pub fn fit(text: &str, width: usize, align: Align) -> String {
    let have = text.width();
    if have <= width {
        let blanks = " ".repeat(width - have);
        return match align {
            Align::Left => format!("{text}{blanks}"),
            Align::Right => format!("{blanks}{text}"),
        };
    }
    if width == 0 {
        return String::new();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > width - 1 {
            break;
        }
        out.push(c);
        used += w;
    }
    out.push('…');
    out.push_str(&" ".repeat(width - 1 - used));
    out
}

/// Rows as columns, each as wide as its widest cell up to `max`; the first row is the heading.
pub fn table(rows: &[Vec<String>], columns: &[(Align, usize)]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, &(_, max))| {
            rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.width()).max().unwrap_or(0).min(max)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(columns)
            .zip(&widths)
            .map(|((cell, &(align, _)), &width)| fit(cell, width, align))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_the_right_unit() {
        let cases = [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (12_345, "12.3us"),
            (999_999, "1.00ms"),
            (1_234_567, "1.23ms"),
            (99_960_000, "100ms"),
            (12_345_678_901, "12.3s"),
            (300_000_000_000, "300s"),
            (3_720_000_000_000, "1h02m"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text, "{ns}");
        }
    }

    #[test]
    fn a_date_and_time_reads_back_as_the_same_millisecond() {
        for ns in [0, 951_825_599_999_000_000, 1_787_320_987_250_000_000, 4_102_444_800_000_000_000] {
            assert_eq!(date_clock(WallTime(ns + 999_999)).parse(), Ok(WallTime(ns)));
        }
        assert_eq!(date_clock(WallTime(1_787_320_987_250_999_999)), "2026-08-21T14:03:07.250Z");
    }

    #[test]
    fn counts_have_separators_and_rates_a_decimal_where_it_matters() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(rate(15, 10_000_000_000), "1.5");
        assert_eq!(rate(123_456, 10_000_000_000), "12,346");
        assert_eq!(rate(5, 0), "-");
    }

    #[test]
    fn text_is_cut_and_padded_by_columns_not_by_characters() {
        assert_eq!(fit("ab", 4, Align::Right), "  ab");
        assert_eq!(fit("주문", 4, Align::Left), "주문");
        assert_eq!(fit("주문서비스", 6, Align::Left), "주문… ");
        for width in 0..14 {
            assert_eq!(fit("a주b문c서", width, Align::Left).width(), width);
        }
    }
}

//! What is typed behind `:`.

use super::{playback::Pace, range::Span as Range, view::View};
use crate::{
    config::Span,
    report::filter::{Filter, Thresholds},
    time::WallTime,
};

const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400 * SECOND_NS;

/// A typed command.
#[derive(Clone, Debug)]
pub enum Typed {
    /// `goto TIME`.
    Goto(WallTime),
    /// `range TIME`, `range TIME TIME`.
    Range(Range),
    /// `speed N`.
    Pace(Pace),
    /// `filter EXPRESSION`; `None` = without one.
    Filter(Option<Filter>),
    /// `window TIME`, ns.
    Window(u64),
    /// `top VALUE`, as the axis that is shown reads it.
    Top(String),
    /// `view NAME`.
    View(View),
    /// `live`.
    Live,
    /// `quit`.
    Quit,
}

/// What can be typed, for the line that is typed on.
pub const HELP: &str =
    "goto 14:03:07 | range 2h | speed 10 | filter … | window 10m | top 3s | view xlog | live | quit";

/// Reads what was typed; `now`: the instant that is shown; `thresholds`: what words of a filter mean. An error says where (a character,
/// from 0) and what.
pub fn parse(text: &str, now: WallTime, thresholds: Thresholds) -> Result<Typed, (usize, String)> {
    let begin = text.len() - text.trim_start().len();
    let (name, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    let argument = rest.trim();
    let at = if argument.is_empty() {
        text.chars().count()
    } else {
        text[..text.rfind(argument).unwrap_or(0)].chars().count()
    };
    let wrong = |what: String| (at, what);
    let span = |argument: &str| {
        argument
            .parse::<Span>()
            .ok()
            .and_then(|Span(span)| u64::try_from(span.as_nanos()).ok())
            .filter(|ns| *ns > 0)
            .ok_or_else(|| wrong(format!("'{argument}' is no duration such as 500ms, 9s or 10m")))
    };
    match name {
        "goto" | "g" => goto(argument, now).map(Typed::Goto).map_err(wrong),
        "range" => range(argument, now).map(Typed::Range).map_err(wrong),
        "speed" => argument.parse().map(Typed::Pace).map_err(wrong),
        "filter" if argument.is_empty() => Ok(Typed::Filter(None)),
        "filter" => Filter::parse(argument, thresholds)
            .map(|filter| Typed::Filter(Some(filter)))
            .map_err(|error| (at + error.column.saturating_sub(1), error.message)),
        "window" => span(argument).map(Typed::Window),
        "top" => Ok(Typed::Top(argument.to_owned())),
        "view" => {
            let known = |view: &&View| view.name().eq_ignore_ascii_case(argument);
            View::ALL.iter().find(known).map(|view| Typed::View(*view)).ok_or_else(|| {
                let names: Vec<String> = View::ALL.iter().map(|view| view.name().to_lowercase()).collect();
                wrong(format!("no view '{argument}': {}", names.join(", ")))
            })
        }
        "live" | "L" => Ok(Typed::Live),
        "q" | "quit" => Ok(Typed::Quit),
        _ => Err((text[..begin].chars().count(), format!("no command '{name}': {HELP}"))),
    }
}

/// An instant: RFC 3339 or ns since 1970; a time of day (UTC), the last one that is not after `now`; or from `now`, as in `-90s`, `+1m`.
fn goto(text: &str, now: WallTime) -> Result<WallTime, String> {
    if let Some(sign) = text.chars().next().filter(|c| matches!(c, '+' | '-')) {
        let Ok(Span(span)) = text[1..].parse::<Span>() else {
            return Err(format!("'{text}' is no duration such as -90s or +1m"));
        };
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        return Ok(WallTime(if sign == '+' { now.0.saturating_add(ns) } else { now.0.saturating_sub(ns) }));
    }
    if let Some(ns) = time_of_day(text) {
        let midnight = now.0 / DAY_NS * DAY_NS;
        let today = midnight + ns;
        return Ok(WallTime(if today <= now.0 { today } else { today.saturating_sub(DAY_NS) }));
    }
    // What is no number and no date is not worth a try as nanoseconds: `goto 14` means something else.
    match text.parse::<WallTime>() {
        Ok(time) if time.0 > DAY_NS => Ok(time),
        _ => Err(format!("'{text}' is no time such as 14:03:07, 2026-08-21T14:03:07Z or -90s")),
    }
}

/// So much time before what is shown, as in `2h`; from one instant to another, or from one to what is shown, each as `goto` takes it. A
/// time of day that lies before the first instant is that of the next day.
fn range(text: &str, now: WallTime) -> Result<Range, String> {
    if let Ok(Span(span)) = text.parse::<Span>() {
        return match u64::try_from(span.as_nanos()) {
            Ok(ns) if ns > 0 => Ok(Range::Last(ns)),
            _ => Err(format!("'{text}' is no range: it has no length")),
        };
    }
    let ends = |from: &str, to: &str| -> Result<Range, String> {
        let (from, mut to_at) = (goto(from, now)?, goto(to, now)?);
        if to_at <= from && time_of_day(to).is_some() {
            to_at = WallTime(to_at.0.saturating_add(DAY_NS));
        }
        if to_at > from {
            Ok(Range::Fixed(from, to_at))
        } else {
            Err(format!("'{text}' ends before it begins"))
        }
    };
    // A date and a time of day may stand apart: the first place at which both sides can be read.
    let blanks = text.match_indices(char::is_whitespace);
    let mut parts = blanks.map(|(at, _)| ends(text[..at].trim(), text[at..].trim()));
    let first = parts.next();
    if let Some(found) = first.iter().cloned().chain(parts).find(Result::is_ok) {
        return found;
    }
    match goto(text, now) {
        Ok(from) if from < now => Ok(Range::Fixed(from, now)),
        Ok(_) => Err(format!("'{text}' is not before the instant that is shown")),
        Err(_) => Err(match first {
            Some(Err(what)) => what,
            _ => format!("'{text}' is no range such as 2h, or 14:00 16:00"),
        }),
    }
}

/// `14:03`, `14:03:07`, `14:03:07.250`: ns since midnight.
fn time_of_day(text: &str) -> Option<u64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() {
        return None;
    }
    let number = |text: &str, below: u64| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|n| digits && *n < below)
    };
    let (whole, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let digits = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    let ns: u64 = format!("{fraction:0<9}").parse().ok().filter(|_| digits)?;
    Some(((number(hour, 24)? * 60 + number(minute, 60)?) * 60 + number(whole, 60)?) * SECOND_NS + ns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> WallTime {
        "2026-08-21T14:03:07.5Z".parse().unwrap()
    }

    #[track_caller]
    fn check_goto(text: &str, want: &str) {
        match parse(text, now(), Thresholds::default()) {
            Ok(Typed::Goto(at)) => assert_eq!(at, want.parse().unwrap(), "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_instant_is_a_date_a_time_of_day_or_a_distance() {
        check_goto("goto 2026-08-20T23:59:59Z", "2026-08-20T23:59:59Z");
        check_goto("  goto   14:03 ", "2026-08-21T14:03:00Z");
        check_goto("goto 14:03:07.25", "2026-08-21T14:03:07.25Z");
        check_goto("goto 14:03:08", "2026-08-20T14:03:08Z");
        check_goto("goto -90s", "2026-08-21T14:01:37.5Z");
        check_goto("goto +1m", "2026-08-21T14:04:07.5Z");
        check_goto("g 1787320987500000000", "2026-08-21T14:03:07.5Z");
    }

    #[test]
    fn a_range_is_a_length_or_goes_from_one_instant_to_another() {
        let check = |text: &str, want: Range| match parse(text, now(), Thresholds::default()) {
            Ok(Typed::Range(range)) => assert_eq!(range, want, "{text}"),
            other => panic!("{text}: {other:?}"),
        };
        let between = |from: &str, to: &str| Range::Fixed(from.parse().unwrap(), to.parse().unwrap());
        check("range 2h", Range::Last(7_200 * SECOND_NS));
        check("range 14:00 14:02", between("2026-08-21T14:00:00Z", "2026-08-21T14:02:00Z"));
        // It goes on.
        check("range 14:00 16:00", between("2026-08-21T14:00:00Z", "2026-08-21T16:00:00Z"));
        check("range 23:00  01:30", between("2026-08-20T23:00:00Z", "2026-08-21T01:30:00Z"));
        check("range 15:00 14:00", between("2026-08-20T15:00:00Z", "2026-08-21T14:00:00Z"));
        check("range -2h -1h", between("2026-08-21T12:03:07.5Z", "2026-08-21T13:03:07.5Z"));
        check("range 14:00", between("2026-08-21T14:00:00Z", "2026-08-21T14:03:07.5Z"));
        check(
            "range 2026-08-19 14:00:00Z 2026-08-20T01:00:00Z",
            between("2026-08-19T14:00:00Z", "2026-08-20T01:00:00Z"),
        );
    }

    #[test]
    fn what_cannot_be_read_says_where_and_what_would_do() {
        for (text, at, part) in [
            ("goto", 4, "14:03:07"),
            ("goto 25:00", 5, "14:03:07"),
            ("goto 14", 5, "14:03:07"),
            ("goto -x", 5, "-90s"),
            ("range", 5, "2h, or 14:00 16:00"),
            ("range soon", 6, "2h, or 14:00 16:00"),
            ("range 14:00 late", 6, "'late' is no time"),
            ("range -1h -2h", 6, "ends before it begins"),
            ("range 0s", 6, "no length"),
            ("speed fast", 6, "0.5, 1, 10 or max"),
            ("filter duration >> 1s", 17, ""),
            ("window 0s", 7, "no duration"),
            ("view nothing", 5, "overview"),
            (" hurry", 1, "no command 'hurry'"),
        ] {
            let (found, what) = parse(text, now(), Thresholds::default()).unwrap_err();
            assert_eq!(found, at, "{text}: {what}");
            assert!(what.contains(part), "{text}: {what}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_panics_and_a_fault_lies_within(text in "\\PC{0,40}") {
            for text in [text.clone(), format!("goto {text}"), format!("filter {text}"), format!("range {text}"), format!("speed {text}")] {
                if let Err((at, _)) = parse(&text, now(), Thresholds::default()) {
                    prop_assert!(at <= text.chars().count());
                }
            }
        }
    }
}

//! A recording that is played on the screen: where it is, how fast it goes, and what can be asked of it.

use std::{fmt, sync::Arc};

use super::feed::Feed;
use crate::{report::filter::Filter, time::WallTime, transaction::Transaction};

/// Event time per wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many thousandths.
    Thousandths(u32),
    /// As fast as the machine can.
    Max,
}

impl Pace {
    /// As it happened.
    pub const REAL: Pace = Pace::Thousandths(1_000);
    /// The steps of faster and slower.
    pub const STEPS: [Pace; 10] = [
        Pace::Thousandths(100),
        Pace::Thousandths(250),
        Pace::Thousandths(500),
        Pace::REAL,
        Pace::Thousandths(2_000),
        Pace::Thousandths(5_000),
        Pace::Thousandths(10_000),
        Pace::Thousandths(30_000),
        Pace::Thousandths(100_000),
        Pace::Max,
    ];

    fn rank(self) -> u32 {
        match self {
            Pace::Thousandths(n) => n,
            Pace::Max => u32::MAX,
        }
    }

    /// The next faster step.
    pub fn faster(self) -> Pace {
        Pace::STEPS.into_iter().find(|step| step.rank() > self.rank()).unwrap_or(Pace::Max)
    }

    /// The next slower step.
    pub fn slower(self) -> Pace {
        Pace::STEPS.into_iter().rev().find(|step| step.rank() < self.rank()).unwrap_or(Pace::STEPS[0])
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::Thousandths(n) => write!(f, "{}×", f64::from(*n) / 1_000.0),
            Pace::Max => write!(f, "max"),
        }
    }
}

/// `max`, or a factor from 0.001 to 1,000,000, with or without an `x` behind it.
impl std::str::FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Pace, String> {
        if text == "max" {
            return Ok(Pace::Max);
        }
        let factor: Option<f64> = text.trim_end_matches(['x', '×']).parse().ok();
        match factor {
            Some(factor) if (0.001..=1_000_000.0).contains(&factor) => {
                Ok(Pace::Thousandths((factor * 1_000.0).round() as u32))
            }
            _ => Err(format!("'{text}' is no speed such as 0.5, 1, 10 or max")),
        }
    }
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// The first error that ends behind the instant.
    NextError,
    /// The last error that ends before it.
    PreviousError,
    /// The slowest transaction of the window that ends there.
    Slowest,
}

impl Sought {
    /// In words.
    pub fn what(self) -> &'static str {
        match self {
            Sought::NextError => "error behind this instant",
            Sought::PreviousError => "error before this instant",
            Sought::Slowest => "transaction in this window",
        }
    }
}

/// What a playback can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop, or go on.
    Toggle,
    /// Another speed.
    Pace(Pace),
    /// Go to an instant, and stop there; the window before it is wanted too.
    Goto {
        /// The instant.
        at: WallTime,
        /// So much time before it, ns.
        window_ns: u64,
    },
    /// Go where something is, and stop there.
    Find {
        /// What.
        what: Sought,
        /// Seen from here.
        from: WallTime,
        /// So much time before it is wanted too, ns.
        window_ns: u64,
    },
    /// Play on to the end, as fast as the machine can.
    End,
    /// Leave the past of a run that goes on.
    Live,
}

/// Where a playback is.
#[derive(Clone, Debug, PartialEq)]
pub struct Played {
    /// Changes when the feed does.
    pub generation: u64,
    /// Played up to here.
    pub at: WallTime,
    /// What ended before this was not loaded.
    pub from: WallTime,
    /// More of the window is being loaded.
    pub is_loading: bool,
    /// The recording's first and last instant.
    pub bounds: (WallTime, WallTime),
    /// Speed.
    pub pace: Pace,
    /// Stopped.
    pub paused: bool,
    /// On the way to this instant.
    pub seeking: Option<WallTime>,
    /// At the end of what is recorded.
    pub ended: bool,
    /// What was looked for last, numbered, if it was found.
    pub found: (u64, Option<Arc<Transaction>>),
    /// What went wrong last, numbered.
    pub fault: (u64, String),
}

impl Default for Played {
    fn default() -> Self {
        Played {
            generation: 0,
            at: WallTime(0),
            from: WallTime(0),
            is_loading: false,
            bounds: (WallTime(0), WallTime(0)),
            pace: Pace::Max,
            paused: false,
            seeking: None,
            ended: false,
            found: (0, None),
            fault: (0, String::new()),
        }
    }
}

impl Played {
    /// The instant that it shows, or is on the way to.
    pub fn target(&self) -> WallTime {
        self.seeking.unwrap_or(self.at)
    }

    /// What differs when something that was asked for has happened.
    pub fn state(&self) -> (u64, Option<WallTime>, Pace, [bool; 3], [u64; 2]) {
        let numbers = [self.found.0, self.fault.0];
        (self.generation, self.seeking, self.pace, [self.paused, self.ended, self.is_loading], numbers)
    }

    /// Whether something before what is loaded is recorded.
    pub fn is_cut(&self) -> bool {
        self.from > self.bounds.0
    }
}

/// A recording that is being played. Dropped: it ends.
pub trait Playback {
    /// What it has played.
    fn feed(&self) -> Feed;
    /// Where it is.
    fn played(&self) -> Played;
    /// What is looked for must match this as well, from now on.
    fn narrow(&self, filter: Option<&Filter>);
    /// Asks it for something; returns at once. [`Order::Live`] is not for it.
    fn order(&self, order: Order);
}

/// Begins to play the recording that a run is making, with an order and what it narrows to.
pub type OpenPast = Box<dyn Fn(Order, Option<&Filter>) -> std::io::Result<Box<dyn Playback>>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_go_up_and_down_through_the_same_steps_and_are_read_as_written() {
        let mut pace = Pace::STEPS[0];
        for step in Pace::STEPS {
            assert_eq!(pace, step);
            assert_eq!(pace.to_string().parse(), Ok(pace));
            pace = pace.faster();
        }
        for step in Pace::STEPS.into_iter().rev() {
            assert_eq!(pace, step);
            pace = pace.slower();
        }
        assert_eq!(Pace::Thousandths(3_000).faster(), Pace::Thousandths(5_000));
        assert_eq!(Pace::Thousandths(3_000).slower(), Pace::Thousandths(2_000));
        for bad in ["", "fast", "0", "-1", "1e9", "NaN"] {
            assert!(bad.parse::<Pace>().is_err(), "{bad}");
        }
    }
}

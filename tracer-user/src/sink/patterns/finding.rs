//! What is found: which pattern, where, by which figures, and what recorded facts say of its cause.

use std::sync::Arc;

use super::sample::{Names, Part, Sample};
use crate::{event::Role, time::WallTime};

/// A pattern of dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Many end at one instant, whenever they began: something was released.
    Vertical,
    /// Many take the same time, between others that do not.
    Horizontal,
    /// The shortest take longer than before: each pays a constant.
    Floor,
    /// Two kinds of elapsed time, and little between them.
    Bands,
    /// Elapsed time grows evenly, and so does what is in flight: a queue.
    Ramp,
    /// Nothing ends, far longer than by chance.
    Silence,
    /// The same while records were lost: what the tracer saw has a gap, which says nothing of the service.
    Unseen,
}

impl Pattern {
    /// All, in order.
    pub const ALL: [Pattern; 7] = [
        Pattern::Vertical,
        Pattern::Horizontal,
        Pattern::Floor,
        Pattern::Bands,
        Pattern::Ramp,
        Pattern::Silence,
        Pattern::Unseen,
    ];

    /// The text in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Pattern::Vertical => "vertical_line",
            Pattern::Horizontal => "horizontal_line",
            Pattern::Floor => "floating_floor",
            Pattern::Bands => "two_bands",
            Pattern::Ramp => "ramp",
            Pattern::Silence => "silence",
            Pattern::Unseen => "not_seen",
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Vertical => "vertical line",
            Pattern::Horizontal => "horizontal line",
            Pattern::Floor => "floating floor",
            Pattern::Bands => "two bands",
            Pattern::Ramp => "ramp",
            Pattern::Silence => "silence",
            Pattern::Unseen => "not seen",
        }
    }
}

/// The figures that a pattern was told by. `log10_p`: the power of ten of the probability that chance alone does as much.
#[derive(Clone, Debug, PartialEq)]
pub enum Figures {
    /// [`Pattern::Vertical`].
    Vertical {
        /// Between the first and the last end, ns.
        width_ns: u64,
        /// The longest of the dots, ns.
        longest_ns: u64,
        /// Ends in so much time otherwise.
        expected: f64,
        /// How far the number of ends is from it, in standard deviations.
        z: f64,
        /// See above.
        log10_p: f64,
        /// Distance of their elapsed times from an even spread, 0 to 1.
        uneven: f64,
    },
    /// [`Pattern::Horizontal`].
    Horizontal {
        /// The constant, ns.
        level_ns: u64,
        /// Its multiples at which there are lines, too.
        multiples: Vec<u64>,
        /// Dots at it by those that would be there without the line.
        expected: f64,
        /// Share of all transactions.
        share: f64,
        /// See above.
        log10_p: f64,
    },
    /// [`Pattern::Floor`].
    Floor {
        /// 5 % were shorter before, ns.
        before_ns: u64,
        /// 5 % are shorter now, ns.
        after_ns: u64,
        /// Medians before and now, ns.
        medians_ns: [u64; 2],
        /// See above.
        log10_p: f64,
    },
    /// [`Pattern::Bands`].
    Bands {
        /// Medians of both, ns.
        medians_ns: [u64; 2],
        /// Share of the upper one.
        upper_share: f64,
        /// How dense it is between them, of the less dense one.
        valley: f64,
        /// See above.
        log10_p: f64,
        /// What tells them apart.
        split: Option<Split>,
    },
    /// [`Pattern::Ramp`].
    Ramp {
        /// By how much the elapsed time grows in a second, ns.
        slope_ns: i64,
        /// Median at the beginning and at the top, ns.
        medians_ns: [u64; 2],
        /// Rank correlation of elapsed time with time.
        correlation: f64,
        /// Of those that finished: in flight at the beginning, and at most.
        in_flight: [u64; 2],
        /// When it had dropped again.
        dropped: Option<WallTime>,
    },
    /// [`Pattern::Silence`] and [`Pattern::Unseen`].
    Silence {
        /// Without an end, ns.
        gap_ns: u64,
        /// Ends a second before.
        rate: f64,
        /// The longest gap that was usual before, ns.
        usual_ns: u64,
        /// See above.
        log10_p: f64,
        /// Ends in the second behind it.
        burst: u64,
        /// Those of them that began before or in the gap.
        burst_held: u64,
        /// Records lost in that time; `None` = not known.
        lost: Option<u64>,
    },
}

/// The attribute that tells two bands apart best.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Which: `operation`, `peer`, `status_code`, `error`, `part`, `asked`.
    pub attribute: &'static str,
    /// What most of the lower band have in it.
    pub lower: String,
    /// What most of the upper one have.
    pub upper: String,
    /// How much it tells of which band one is in, bits.
    pub bits: f64,
    /// The same as a share of what there is to tell.
    pub share: f64,
}

/// What recorded facts say of where the time went.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// Nothing: no anatomy was taken.
    NoAnatomy,
    /// There are anatomies, and most have nothing in common.
    Mixed {
        /// Dots with an anatomy.
        of: u64,
    },
    /// A part that most of the dots share, or that grew.
    Part {
        /// Which.
        part: Part,
        /// Whom they asked, where the part is calls and most asked the same.
        peer: Option<Arc<str>>,
        /// Its time in the median of those dots, ns.
        median_ns: u64,
        /// Dots of which it is the longest part, or the one that grew.
        n: u64,
        /// Dots with an anatomy.
        of: u64,
    },
}

/// A pattern that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Number, in the order in which they were found.
    pub number: u64,
    /// Which.
    pub pattern: Pattern,
    /// First instant.
    pub from: WallTime,
    /// Last instant.
    pub to: WallTime,
    /// Service.
    pub service: Arc<str>,
    /// Its part.
    pub role: Role,
    /// The operation that almost all of its dots share.
    pub operation: Option<Arc<str>>,
    /// Dots in it.
    pub n: u64,
    /// By which it was told.
    pub figures: Figures,
    /// What is known of its cause.
    pub cause: Cause,
    /// It may go on.
    pub is_open: bool,
    /// What tells it from another of its kind in the same service.
    pub(super) key: u64,
}

/// What a look at a service found, before it is put together with what was found before.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub pattern: Pattern,
    pub key: u64,
    pub from: u64,
    pub to: u64,
    /// Dots by time, ascending.
    pub dots: Vec<(u64, u64)>,
    pub operation: Option<u16>,
    pub figures: Figures,
    pub cause: Cause,
}

/// Share of the dots from which on what they have in common is told of all.
const MOST: f64 = 0.6;
/// The same of an operation, which is then the finding's.
const ALMOST_ALL: f64 = 0.9;

/// The operation that almost all share.
pub(super) fn operation_of<'a>(dots: impl Iterator<Item = &'a Sample>) -> Option<u16> {
    let (value, n, of) = most_common(dots.map(|dot| dot.operation))?;
    (n as f64 >= ALMOST_ALL * of as f64 && value != Names::OTHER).then_some(value)
}

/// The most common value, how often it is there, and of how many.
pub(super) fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<(T, u64, u64)> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    let of = values.len() as u64;
    let runs = values.chunk_by(|a, b| a == b);
    // Of equally common ones the first: the same in every run.
    let longest = runs.fold(None::<&[T]>, |best, run| match best {
        Some(best) if best.len() >= run.len() => Some(best),
        _ => Some(run),
    })?;
    Some((longest[0], longest.len() as u64, of))
}

/// The longest part that most dots share.
pub(super) fn cause_of(dots: &[&Sample], names: &Names) -> Cause {
    cause_by(dots, names, |dot| dot.parts[0])
}

/// The part that most dots share, by one part of each: its name and µs.
pub(super) fn cause_by(
    dots: &[&Sample],
    names: &Names,
    part_of: impl Fn(&Sample) -> Option<(Part, u32)>,
) -> Cause {
    // A queue's time is known without an anatomy.
    let known: Vec<&&Sample> = dots.iter().filter(|dot| dot.has_anatomy || dot.parts[0].is_some()).collect();
    let of = known.len() as u64;
    if of == 0 {
        return Cause::NoAnatomy;
    }
    let found = most_common(known.iter().filter_map(|dot| Some(part_of(dot)?.0)));
    let Some((part, n, _)) = found.filter(|(_, n, _)| *n as f64 >= MOST * of as f64) else {
        return Cause::Mixed { of };
    };
    let with: Vec<&&&Sample> =
        known.iter().filter(|dot| part_of(dot).is_some_and(|(other, _)| other == part)).collect();
    let mut times: Vec<u64> =
        with.iter().filter_map(|dot| Some(u64::from(part_of(dot)?.1) * 1_000)).collect();
    let peer = match part {
        Part::Calls => most_common(with.iter().map(|dot| dot.asked))
            .filter(|(_, n, of)| *n as f64 >= MOST * *of as f64)
            .and_then(|(peer, ..)| names.text(peer).cloned()),
        _ => None,
    };
    Cause::Part { part, peer, median_ns: super::statistics::median(&mut times), n, of }
}

//! What the thread of a request was met doing: call stacks of moments on a CPU, and of what it waited in.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{CallId, anatomy::Reason};
use crate::{event::StackEnd, text::push_json};

/// Different stacks that are kept of one request; what was met in others is one entry without frames.
pub const MAX_STACKS: usize = 64;

/// In which part of a request's time a stack was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StackPart {
    /// On a CPU.
    OnCpu,
    /// Off it, waiting for this.
    Off(Reason),
}

impl StackPart {
    /// The text in JSON and filters: `oncpu`, or the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            StackPart::OnCpu => "oncpu",
            StackPart::Off(reason) => reason.as_str(),
        }
    }

    /// The reverse of [`StackPart::as_str`].
    pub fn parse(text: &str) -> Option<StackPart> {
        match text {
            "oncpu" => Some(StackPart::OnCpu),
            text => Reason::ALL.into_iter().find(|reason| reason.as_str() == text).map(StackPart::Off),
        }
    }
}

/// How often and how long a request was met in one stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSum {
    /// In which part of its time.
    pub part: StackPart,
    /// Of samples as many periods as there were, of waits their time, ns.
    pub ns: u64,
    /// How often.
    pub count: u64,
    /// What was called from where, the innermost first, as a JSON array of texts, those of the kernel with `(kernel)`; `[]` of those for which there was no room.
    pub frames: Arc<str>,
    /// Where it ends.
    pub end: StackEnd,
}

/// As it stands in JSON.
#[derive(Deserialize)]
struct Row {
    kind: String,
    ns: u64,
    count: u64,
    end: String,
    frames: Vec<String>,
}

impl StackSum {
    /// As a JSON array of objects: `[{"kind", "ns", "count", "end", "frames": […]}]`.
    pub fn as_json(stacks: &[StackSum]) -> String {
        let mut out = String::from("[");
        for (i, StackSum { part, ns, count, frames, end }) in stacks.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let (kind, end) = (part.as_str(), end.as_str());
            let head = format!(
                "{comma}{{\"kind\":\"{kind}\",\"ns\":{ns},\"count\":{count},\"end\":\"{end}\",\"frames\":"
            );
            out.push_str(&head);
            out.push_str(frames);
            out.push('}');
        }
        out.push(']');
        out
    }

    /// The reverse.
    pub fn from_json(text: &str) -> Option<Vec<StackSum>> {
        let rows: Vec<Row> = serde_json::from_str(text).ok()?;
        let of_row = |Row { kind, ns, count, end, frames }: Row| {
            let (part, end) = (StackPart::parse(&kind)?, StackEnd::parse(&end)?);
            Some(StackSum { part, ns, count, frames: frames_text(&frames), end })
        };
        rows.into_iter().map(of_row).collect()
    }

    /// The frames one by one, the innermost first.
    pub fn frames(&self) -> Vec<String> {
        serde_json::from_str(&self.frames).unwrap_or_default()
    }
}

/// Frames as [`StackSum::frames`] holds them.
pub fn frames_text<T: AsRef<str>>(frames: &[T]) -> Arc<str> {
    let mut out = vec![b'['];
    for (i, frame) in frames.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_json(&mut out, frame.as_ref());
    }
    out.push(b']');
    String::from_utf8_lossy(&out).into()
}

/// Adds a stack to those of a request.
pub fn add(stacks: &mut Vec<StackSum>, part: StackPart, ns: u64, frames: &Arc<str>, end: StackEnd) {
    let same = |sum: &&mut StackSum| {
        sum.part == part && sum.end == end && (Arc::ptr_eq(&sum.frames, frames) || sum.frames == *frames)
    };
    if let Some(sum) = stacks.iter_mut().find(same) {
        sum.ns = sum.ns.saturating_add(ns);
        sum.count += 1;
    } else if stacks.len() < MAX_STACKS {
        stacks.push(StackSum { part, ns, count: 1, frames: frames.clone(), end });
    } else {
        let none: Arc<str> = "[]".into();
        let rest = stacks.iter_mut().find(|sum| sum.part == part && *sum.frames == *none);
        match rest {
            Some(sum) => {
                sum.ns = sum.ns.saturating_add(ns);
                sum.count += 1;
            }
            None => stacks.push(StackSum { part, ns, count: 1, frames: none, end: StackEnd::Truncated }),
        }
    }
}

/// Of requests that take less than so long, ns, and did not fail, so many of a hundred keep their stacks: as Scouter samples its profiles. Longer ones all do.
const BANDS: [(u64, u64); 3] = [(100_000_000, 3), (1_000_000_000, 10), (3_000_000_000, 30)];

/// Whether a request that did not ask for it keeps its stacks. Follows from its id, so that a replay keeps the same ones.
pub fn is_sampled(id: CallId, duration_ns: i64, failed: bool) -> bool {
    let Some((_, percent)) = BANDS.into_iter().find(|(below, _)| duration_ns < *below as i64) else {
        return true;
    };
    // Ids of connections are times and of requests numbers: multiplied by a large odd number they are spread over the high bits (Fibonacci hashing).
    let spread = (id.conn.0 ^ id.ordinal.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    failed || spread % 100 < percent
}

/// What one sample on a CPU stands for, ns.
pub const SAMPLE_NS: u64 = abi::SAMPLE_PERIOD_NS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConnId;

    #[test]
    fn stacks_are_added_up_and_what_finds_no_room_is_one_entry() {
        let mut stacks = Vec::new();
        for i in 0..MAX_STACKS + 5 {
            let frames = frames_text(&[format!("f{i}")]);
            add(&mut stacks, StackPart::OnCpu, 10, &frames, StackEnd::Complete);
            add(&mut stacks, StackPart::OnCpu, 10, &frames, StackEnd::Complete);
        }
        assert_eq!(stacks.len(), MAX_STACKS + 1);
        assert_eq!((stacks[0].count, stacks[0].ns, &*stacks[0].frames), (2, 20, "[\"f0\"]"));
        assert_eq!((stacks[MAX_STACKS].count, &*stacks[MAX_STACKS].frames), (10, "[]"));
        add(&mut stacks, StackPart::Off(Reason::Futex), 7, &frames_text(&["f0"]), StackEnd::Complete);
        assert_eq!(stacks[MAX_STACKS + 1].part, StackPart::Off(Reason::Futex));
        assert_eq!(StackSum::from_json(&StackSum::as_json(&stacks)), Some(stacks));
    }

    #[test]
    fn json_holds_what_frames_hold() {
        let frames = frames_text(&["a \"quoted\" \\ name+0x1 (f)", "b"]);
        let sum = StackSum {
            part: StackPart::Off(Reason::Disk),
            ns: 1,
            count: 2,
            frames,
            end: StackEnd::Truncated,
        };
        assert_eq!(
            StackSum::as_json(std::slice::from_ref(&sum)),
            r#"[{"kind":"disk","ns":1,"count":2,"end":"truncated","frames":["a \"quoted\" \\ name+0x1 (f)","b"]}]"#
        );
        assert_eq!(sum.frames(), ["a \"quoted\" \\ name+0x1 (f)", "b"]);
        assert_eq!(StackSum::from_json("[{\"kind\":\"no\"}]"), None);
    }

    #[test]
    fn slow_and_failed_requests_keep_their_stacks_and_of_the_others_so_many() {
        let kept = |duration_ns: i64, failed| {
            (0..10_000).filter(move |n| {
                let id = CallId { conn: ConnId(74_554_078_426_070 + n / 7 * 1_000_003), ordinal: n % 7 };
                is_sampled(id, duration_ns, failed)
            })
        };
        for (duration_ns, percent) in [(5, 3), (100_000_000, 10), (1_000_000_000, 30)] {
            let n = kept(duration_ns, false).count();
            assert!((percent * 80..percent * 120).contains(&n), "{n} of 10,000 at {percent} %");
        }
        assert_eq!((kept(3_000_000_000, false).count(), kept(5, true).count()), (10_000, 10_000));
    }
}

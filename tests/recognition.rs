//! The confusion table: the bytes of each protocol's captures against all recognisers, whole, cut off and joined in the middle.
//!
//! `docs/recognition.md` publishes it (`TXRAY_BLESS=1` writes it). What must hold: nobody takes another's bytes for its own,
//! anywhere; every capture is named right as a whole; and of the cuts that hold the first message, 95 % at least.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use tracer_user::protocol::{Coverage, Flow, Inference, Protocol, REGISTRY};

use crate::{
    captures::{Line, captures, parse},
    wire::{End, Wire},
};

/// Cuts are made at every offset up to here.
const CUTS: usize = 64;
/// Of the cuts that hold the first message whole, so many of a hundred are named right.
const MIN_NAMED: usize = 95;

/// The captured bytes of one flow, up to the first that are missing, and where its turns begin.
struct Side {
    name: String,
    flow: Flow,
    bytes: Vec<u8>,
    turns: Vec<usize>,
    is_joined: bool,
    /// Other protocols that it holds for good reason: `# holds: tls`.
    holds: Vec<String>,
    /// Length of the first message, if it is there whole.
    first: Option<usize>,
}

/// What happened to some bytes: named right, named something else, by nobody.
#[derive(Clone, Debug, Default)]
struct Tally {
    right: usize,
    undecided: usize,
    nobody: usize,
    /// The right protocol, and the other side of it.
    flipped: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn n(&self) -> usize {
        self.right + self.undecided + self.nobody + self.flipped + self.wrong.len()
    }
}

fn sides(protocol: &'static dyn Protocol) -> Vec<Side> {
    let mut sides = Vec::new();
    for (name, capture) in captures(protocol.name()) {
        let begins = parse(&capture).into_iter().find_map(|line| match line {
            Line::Bytes(flow, _) => Some(flow),
            Line::Uncaptured(..) | Line::Lost(..) | Line::Close(_) => None,
        });
        for flow in [Flow::Request, Flow::Response] {
            let (mut bytes, mut turns, mut last) = (Vec::new(), Vec::new(), None);
            for line in parse(&capture) {
                match line {
                    Line::Bytes(side, piece) => {
                        if side == flow && last != Some(side) {
                            turns.push(bytes.len());
                        }
                        last = Some(side);
                        if side == flow {
                            bytes.extend(piece);
                        }
                    }
                    Line::Uncaptured(side, _) | Line::Lost(side, _) if side == flow => break,
                    _ => {}
                }
            }
            if bytes.is_empty() {
                continue;
            }
            let mut wire = Wire::new(protocol);
            wire.bytes(flow, &bytes, true);
            let ends = wire.seen.iter().filter(|seen| seen.flow == flow).filter_map(|seen| match seen.end {
                End::At(end) => Some(end as usize),
                End::Cut | End::Open => None,
            });
            // Where the connection's first message needs the other side's words to end, the turn is it.
            let turn = turns.get(1).copied().or((turns.len() == 1).then_some(bytes.len()));
            let first = ends.min().or(turn.filter(|_| begins == Some(flow)));
            let is_joined = capture.contains("# joined in the middle");
            let holds = capture.lines().find_map(|line| line.strip_prefix("# holds: ")).unwrap_or_default();
            let holds = holds.split(", ").map(str::to_owned).collect();
            sides.push(Side { name: name.clone(), flow, bytes, turns, is_joined, holds, first });
        }
    }
    sides
}

/// Asks all recognisers.
fn ask(tally: &mut Tally, owner: &dyn Protocol, side: &Side, bytes: &[u8], what: &str) {
    let mut is_undecided = false;
    for protocol in REGISTRY {
        let flow = match protocol.infer(bytes) {
            Inference::No => continue,
            Inference::NeedMore => {
                is_undecided = true;
                continue;
            }
            Inference::Request => Flow::Request,
            Inference::Response => Flow::Response,
            // Joined in the middle: which side asks is not said.
            Inference::Either => side.flow,
        };
        if protocol.name() == owner.name() && flow == side.flow {
            tally.right += 1;
        } else if protocol.name() == owner.name() && what.starts_with("joined") {
            // Where bytes are missing before them: a connection's role is known otherwise.
            tally.flipped += 1;
        } else if side.holds.iter().any(|held| held == protocol.name()) && what.starts_with("joined") {
            // A tunnel: what is in it is that.
            tally.nobody += 1;
        } else {
            let name = protocol.name();
            tally.wrong.push(format!("{} of {} is {name}'s {flow:?}, {what}", side.name, owner.name()));
        }
        return;
    }
    if is_undecided {
        tally.undecided += 1;
    } else {
        tally.nobody += 1;
    }
}

#[test]
fn nobody_takes_anothers_bytes_for_its_own() {
    let (mut table, mut rows) = (String::new(), String::new());
    let mut faults = Vec::new();
    let mut confused: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for protocol in REGISTRY {
        let Coverage { title, covers, lacks, tested_with } = protocol.coverage();
        let n_captures = captures(protocol.name()).len();
        let (name, is_inferred) = (protocol.name(), protocol.is_inferred());
        let _ = write!(rows, "| {title} | `{name}` | {covers} | {lacks} | {tested_with} | {n_captures} |");
        if !is_inferred {
            let _ = writeln!(rows, " – |");
            continue;
        }
        let [mut whole, mut cuts, mut complete, mut joined] = [(); 4].map(|()| Tally::default());
        let sides = sides(*protocol);
        for side in &sides {
            let is_named = side.flow == Flow::Request || protocol.responses_are_inferred();
            if !is_named {
                // All that must not happen is that somebody takes them for something.
                for bytes in
                    (0..side.bytes.len().min(CUTS)).map(|cut| &side.bytes[..cut + 1]).chain([&side.bytes[..]])
                {
                    ask(&mut joined, *protocol, side, bytes, "a response");
                }
            } else if !side.is_joined {
                ask(&mut whole, *protocol, side, &side.bytes, "whole");
                // As many again behind the first message, wherever it ends.
                let behind = side.first.map_or(0..0, |first| first.max(CUTS + 1)..first + CUTS + 1);
                for cut in (1..=CUTS).chain(behind).filter(|cut| *cut <= side.bytes.len()) {
                    let holds = side.first.is_some_and(|first| first <= cut);
                    let tally = if holds { &mut complete } else { &mut cuts };
                    ask(tally, *protocol, side, &side.bytes[..cut], &format!("cut at {cut}"));
                }
            }
            let turns = side.turns.iter().copied().filter(|at| *at > 0);
            for from in (1..CUTS).chain(turns).filter(|at| *at < side.bytes.len()) {
                ask(&mut joined, *protocol, side, &side.bytes[from..], &format!("joined at {from}"));
            }
        }
        let _ = writeln!(rows, " {} of {} |", complete.right, complete.n());
        for other in REGISTRY {
            for tally in [&whole, &cuts, &complete, &joined] {
                let is_by = format!(" is {}'s", other.name());
                let n = tally.wrong.iter().filter(|wrong| wrong.contains(&is_by)).count();
                *confused.entry((name, other.name())).or_default() += n;
            }
        }
        let _ = writeln!(
            table,
            "| {name} | {} | {} of {} | {} of {} | {}, {}, {} | {}, {}, {}, {} | {} |",
            sides.len(),
            whole.right,
            whole.n(),
            complete.right,
            complete.n(),
            cuts.right,
            cuts.undecided,
            cuts.nobody,
            joined.right,
            joined.undecided,
            joined.nobody,
            joined.flipped,
            whole.wrong.len() + cuts.wrong.len() + complete.wrong.len() + joined.wrong.len(),
        );
        if whole.right != whole.n() {
            faults.push(format!("{name}: {} of {} whole captures are named", whole.right, whole.n()));
        }
        if complete.right * 100 < complete.n() * MIN_NAMED {
            faults.push(format!(
                "{name}: {} of {} whole first messages are named",
                complete.right,
                complete.n()
            ));
        }
        for tally in [whole, cuts, complete, joined] {
            faults.extend(tally.wrong);
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(confused.values().all(|n| *n == 0), "{confused:?}");
    publish(&table);
    let heading = "| protocol | `--protocol` | what is read | what is not | traced in tests | captures | recognised by a first message |\n\
                   | --- | --- | --- | --- | --- | --- | --- |\n";
    put_into_readme("protocols", &format!("{heading}{rows}"));
}

/// What stands between two marks of the README is this text (`TXRAY_BLESS=1` puts it there).
pub(crate) fn put_into_readme(mark: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).expect("README.md");
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->\n"));
    let (before, rest) = readme.split_once(&begin).expect("the mark that begins it");
    let (found, behind) = rest.split_once(&end).expect("the mark that ends it");
    if std::env::var_os("TXRAY_BLESS").is_some() && found != text {
        fs::write(&path, format!("{before}{begin}{text}{end}{behind}")).expect("README.md");
        return;
    }
    assert_eq!(found, text, "TXRAY_BLESS=1 writes the README's table");
}

fn publish(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recognition.md");
    let text = format!(
        "# Which protocol is it?\n\n\
         Bytes of every capture in `fixtures/`, against every protocol's recogniser (`tests/recognition.rs` writes this table and fails \
         where it does not hold). Each direction of a capture counts for itself.\n\n\
         * **whole**: all its bytes. **first message**: cut at each offset up to {CUTS}, and up to {CUTS} behind the first message, that holds it whole.\n\
         * **shorter**: cut at each offset up to {CUTS} before that: named right, too few bytes to tell, not known.\n\
         * **joined**: without its first 1 to {} bytes, and from each later turn on: named right, too few bytes to tell, not known, taken for the other side's. A connection \
         that is not known from a turn is looked at again in the next ones.\n\
         * **wrong**: another name in any of these, or the other side's where all bytes are there.\n\n\
         | protocol | directions | whole | first message | shorter | joined | wrong |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n{table}",
        CUTS - 1,
    );
    if std::env::var_os("TXRAY_BLESS").is_some() {
        fs::write(&path, &text).expect("docs/recognition.md");
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        text,
        "TXRAY_BLESS=1 writes docs/recognition.md"
    );
}

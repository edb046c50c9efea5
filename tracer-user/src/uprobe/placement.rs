//! Where in a function a probe goes: the first place where it is cheap and still sees the arguments, once for each call.

use serde::Serialize;

use super::{
    code::{Instruction, MAX_FUNCTION, Next, Registers, Step, decode},
    elf::Elf,
};

/// Instructions from the beginning that are looked at: arguments hardly live longer, and compilers save registers within the first ten.
const MAX_PROLOGUE: usize = 40;
/// Instructions of Go's way round through `morestack`: it saves up to nine registers, calls, takes them back and begins again.
const MAX_ROUND: usize = 32;

/// A function's code.
#[derive(Debug)]
pub struct Function {
    /// Its address before relocation.
    pub address: u64,
    /// Its instructions.
    pub instructions: Vec<Instruction>,
    /// Branches from within to within: where from, where to.
    branches: Vec<(u64, u64)>,
}

/// A place for a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Where in the file: what the kernel is asked for.
    pub file_offset: u64,
    /// Bytes from the function's beginning.
    pub into: u64,
    /// The instruction there.
    pub instruction: String,
    /// What the kernel does with it.
    pub step: Step,
    /// Whether it is passed exactly once by each call. Where not, a loop or, in Go, a growing stack comes by again.
    pub once: bool,
}

impl Function {
    /// Reads and decodes a function of the file.
    pub fn read(elf: &Elf<'_>, address: u64, size: u64) -> Function {
        let code = if elf.is_executable(address) {
            elf.memory(address, size.min(MAX_FUNCTION))
        } else {
            Vec::new()
        };
        Function::decode(&code, address)
    }

    /// Decodes a function's bytes.
    pub fn decode(code: &[u8], address: u64) -> Function {
        let instructions = decode(code, address);
        let inside = |target: u64| target.wrapping_sub(address) < code.len() as u64;
        let branches = instructions
            .iter()
            .filter_map(|one| match one.next {
                Next::Maybe(target) | Next::Jump(target) if inside(target) => Some((one.address, target)),
                _ => None,
            })
            .collect();
        Function { address, instructions, branches }
    }

    /// The best place where a probe sees the arguments in these registers.
    pub fn entry(&self, elf: &Elf<'_>, arguments: Registers) -> Option<Site> {
        self.best(elf, arguments)
    }

    /// The best place for a return probe: the return address has to lie at the stack pointer still, so that it can be replaced.
    pub fn return_probe(&self, elf: &Elf<'_>) -> Option<Site> {
        self.best(elf, Registers::STACK)
    }

    /// Emulated and passed once; or emulated and passed again only when Go's stack grows; or a long no-operation; or the beginning.
    fn best(&self, elf: &Elf<'_>, kept: Registers) -> Option<Site> {
        let places = self.places(kept);
        let is = |step, once| move |place: &&Place<'_>| (place.instruction.step, place.once) == (step, once);
        let best = places
            .iter()
            .find(is(Step::Emulated, true))
            .or_else(|| places.iter().find(|place| place.restarts && place.instruction.step == Step::Emulated))
            .or_else(|| places.iter().filter(is(Step::LongNop, true)).find(|place| self.may_hold(place)))
            .or_else(|| places.iter().find(|place| place.instruction.step != Step::Refused && self.may_hold(place)))?;
        self.site(elf, best.instruction, best.once)
    }

    /// From 6.18 on a no-operation of five bytes is turned into a call, which overwrites what a function without a frame keeps below
    /// its stack pointer. At the beginning there is nothing yet.
    fn may_hold(&self, place: &Place<'_>) -> bool {
        let one = place.instruction;
        one.address == self.address || !(one.step == Step::LongNop && one.length == 5)
    }

    /// The places on the straight way from the beginning on which nothing of `kept` is overwritten yet.
    fn places(&self, kept: Registers) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        // Jumps back to the beginning out of a way round that has been passed: they do not lead here again.
        let mut excused: Vec<u64> = Vec::new();
        for one in self.instructions.iter().take(MAX_PROLOGUE) {
            let again: Vec<u64> = self
                .branches
                .iter()
                .filter(|(from, to)| *to <= one.address && *to >= self.address && !excused.contains(from))
                .map(|(from, _)| *from)
                .collect();
            let round = match one.next {
                Next::Maybe(target) => self.way_back(target),
                _ => None,
            };
            places.push(Place {
                instruction: one,
                once: again.is_empty(),
                restarts: round.is_some_and(|from| again == [from]),
            });
            match (one.next, round) {
                (Next::Behind, _) if !one.writes.overlaps(kept) => {}
                (Next::Maybe(_), Some(from)) => excused.push(from),
                _ => break,
            }
        }
        places
    }

    /// If what stands at an address only calls something and begins the function again: where it jumps from.
    fn way_back(&self, target: u64) -> Option<u64> {
        let at = self.instructions.binary_search_by_key(&target, |one| one.address).ok()?;
        for one in self.instructions[at..].iter().take(MAX_ROUND) {
            match one.next {
                Next::Behind | Next::Call(_) => {}
                Next::Jump(to) if to == self.address => return Some(one.address),
                _ => return None,
            }
        }
        None
    }

    /// The function that this one hands its first two arguments on to, if a return probe costs less there: its beginning is emulated.
    /// What this function answers before that, it answers without having done anything.
    pub fn inner(&self, elf: &Elf<'_>) -> Option<u64> {
        let mut written = Registers::default();
        let handed_on = Registers::all(&Registers::C[..2]);
        for one in self.instructions.iter().take(MAX_PROLOGUE) {
            let target = match one.next {
                Next::Behind | Next::Maybe(_) => None,
                Next::Call(Some(target)) => Some(target),
                Next::Jump(target) => Some(target),
                _ => return None,
            };
            if let Some(target) = target {
                let is_own = target.wrapping_sub(self.address) < self.length();
                let in_plt = elf.sections.iter().any(|section| {
                    section.name.starts_with(".plt") && target.wrapping_sub(section.address) < section.size
                });
                if is_own || in_plt || written.overlaps(handed_on) {
                    return None;
                }
                let first = Function::read(elf, target, 16);
                let is_cheap = first.instructions.first().is_some_and(|one| one.step == Step::Emulated);
                return is_cheap.then_some(target);
            }
            written = Registers::all(&[written, one.writes]);
        }
        None
    }

    /// All places where it returns: for functions that cannot bear a return probe.
    pub fn returns(&self, elf: &Elf<'_>) -> Vec<Site> {
        let returns = self.instructions.iter().filter(|one| one.next == Next::Return);
        returns.filter_map(|one| self.site(elf, one, true)).collect()
    }

    fn length(&self) -> u64 {
        self.instructions.last().map_or(0, |last| last.end().wrapping_sub(self.address))
    }

    fn site(&self, elf: &Elf<'_>, one: &Instruction, once: bool) -> Option<Site> {
        Some(Site {
            file_offset: elf.file_offset(one.address)?,
            into: one.address.wrapping_sub(self.address),
            instruction: one.name(),
            step: one.step,
            once,
        })
    }
}

/// An instruction on the straight way.
struct Place<'a> {
    instruction: &'a Instruction,
    /// No branch leads here again.
    once: bool,
    /// It is the check of Go's stack, and only the way round behind it leads here again.
    restarts: bool,
}

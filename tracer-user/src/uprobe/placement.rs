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

/// Bytes of a function that is met on the way to another: its own call comes first.
const MAX_BEGINNING: u64 = 64;

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
        let code =
            if elf.is_executable(address) { elf.memory(address, size.min(MAX_FUNCTION)) } else { Vec::new() };
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

    /// The same where the arguments are to be seen as well.
    pub fn return_probe_with(&self, elf: &Elf<'_>, arguments: Registers) -> Option<Site> {
        self.best(elf, Registers::all(&[Registers::STACK, arguments]))
    }

    /// Emulated and passed once; or emulated and passed again only when Go's stack grows; or a long no-operation; or the beginning.
    fn best(&self, elf: &Elf<'_>, kept: Registers) -> Option<Site> {
        let places = self.places(kept);
        let is = |step, once| move |place: &&Place<'_>| (place.instruction.step, place.once) == (step, once);
        let best = places
            .iter()
            .find(is(Step::Emulated, true))
            .or_else(|| {
                places.iter().find(|place| place.restarts && place.instruction.step == Step::Emulated)
            })
            .or_else(|| places.iter().filter(is(Step::LongNop, true)).find(|place| self.may_hold(place)))
            .or_else(|| {
                places.iter().find(|place| place.instruction.step != Step::Refused && self.may_hold(place))
            })?;
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
    /// What this function answers before that, it answers without having done anything. One that does the same again is passed over.
    pub fn inner(&self, elf: &Elf<'_>) -> Option<u64> {
        /// Functions on the way: `SSL_write_ex` goes on to `SSL_write_ex2`, and that to what both share.
        const MAX_LEVELS: usize = 2;
        self.inner_within(elf, MAX_LEVELS)
    }

    fn inner_within(&self, elf: &Elf<'_>, n_levels: usize) -> Option<u64> {
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
                let first = Function::read(elf, target, MAX_BEGINNING);
                let is_cheap = first.instructions.first().is_some_and(|one| one.step == Step::Emulated);
                if !is_cheap && n_levels > 1 {
                    return first.inner_within(elf, n_levels - 1);
                }
                return is_cheap.then_some(target);
            }
            written = Registers::all(&[written, one.writes]);
        }
        None
    }

    /// The functions that it calls or goes on to, by address.
    pub fn leads_to(&self) -> Vec<u64> {
        let mut targets: Vec<u64> = self
            .instructions
            .iter()
            .filter_map(|one| match one.next {
                Next::Call(Some(target)) | Next::Jump(target) => Some(target),
                _ => None,
            })
            .filter(|target| target.wrapping_sub(self.address) >= self.length())
            .collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// All places where it returns.
    pub fn returns(&self, elf: &Elf<'_>) -> Vec<Site> {
        let returns = self.instructions.iter().filter(|one| one.next == Next::Return);
        returns.filter_map(|one| self.site(elf, one, true)).collect()
    }

    /// The place of one of its instructions. Whether each call passes it is for the caller to know.
    pub fn site_at(&self, elf: &Elf<'_>, address: u64) -> Option<Site> {
        let at = self.instructions.binary_search_by_key(&address, |one| one.address).ok()?;
        self.site(elf, &self.instructions[at], true)
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::uprobe::bytes::Bytes;

    const BASE: u64 = 0x401000;

    /// A file whose one segment is this code.
    pub(in crate::uprobe) fn file(code: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x40 + 0x38];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x12] = 62;
        file[0x20] = 0x40;
        file[0x38] = 1;
        let size = code.len() as u64;
        for (at, value) in [(0, 5 << 32 | 1), (8, 0x78), (16, BASE), (24, BASE), (32, size), (40, size)] {
            file[0x40 + at..0x48 + at].copy_from_slice(&u64::to_le_bytes(value));
        }
        file.extend_from_slice(code);
        file
    }

    /// The place where a probe sees the first three arguments, and the one of a return probe: where, what, whether once.
    #[track_caller]
    fn check(code: &[u8], arguments: &[Registers], entry: (u64, &str, bool), end: (u64, &str, bool)) {
        let bytes = file(code);
        let elf = Elf::parse(&bytes as &dyn Bytes).unwrap();
        let function = Function::read(&elf, BASE, code.len() as u64);
        let short = |site: Option<Site>| {
            let site = site.unwrap();
            assert_eq!(site.file_offset, 0x78 + site.into);
            (site.into, site.instruction, site.once)
        };
        let own = |(into, name, once): (u64, &str, bool)| (into, name.to_owned(), once);
        assert_eq!(short(function.entry(&elf, Registers::all(arguments))), own(entry), "entry");
        assert_eq!(short(function.return_probe(&elf)), own(end), "end");
    }

    #[test]
    fn the_first_emulated_instruction_is_taken_while_the_arguments_are_there() {
        let c = &Registers::C[..3];
        // endbr64; push rbp; …: where the return address is still on top.
        check(b"\xf3\x0f\x1e\xfa\x55\x5d\xc3", c, (4, "push", true), (4, "push", true));
        // sub rsp, 24; test edx, edx; js +1; nop; ret: the stack has moved before the branch.
        check(b"\x48\x83\xec\x18\x85\xd2\x78\x01\x90\xc3", c, (6, "js", true), (0, "sub", true));
        // xor ecx, ecx (a fourth argument); jmp out
        check(b"\x31\xc9\xe9\x00\x10\x00\x00", c, (2, "jmp", true), (2, "jmp", true));
        check(b"\x31\xc9\xe9\x00\x10\x00\x00", &Registers::C, (0, "xor", true), (2, "jmp", true));
        // mov edi, 1; push rbp: too late
        check(b"\xbf\x01\x00\x00\x00\x55\x5d\xc3", c, (0, "mov", true), (5, "push", true));
        // mov rax, [rdi]; jmp [rax+16]: nothing is emulated
        check(b"\x48\x8b\x07\xff\x60\x10", c, (0, "mov", true), (0, "mov", true));
    }

    #[test]
    fn what_a_call_may_miss_or_pass_twice_is_not_taken() {
        let c = &Registers::C[..3];
        // test edi, edi; je +1; push rbp; pop rbp; ret: not behind a branch, so that the branch itself is.
        check(b"\x85\xff\x74\x02\x55\x5d\xc3", c, (2, "je", true), (2, "je", true));
        // mov eax, 1; dec eax; jne -4; ret: a loop comes back behind the beginning.
        check(b"\xb8\x01\x00\x00\x00\xff\xc8\x75\xfc\xc3", c, (0, "mov", true), (0, "mov", true));
        // push rbp; pop rbp; jmp to the beginning: even that is passed again.
        check(b"\x55\x5d\xeb\xfc", c, (0, "push", false), (0, "push", false));
    }

    #[test]
    fn the_check_of_gos_stack_is_passed_over() {
        // cmp rsp, [r14+16]; jbe +6; push rbp; mov rbp, rsp; pop rbp; ret; call out; jmp to the beginning
        let code = b"\x49\x3b\x66\x10\x76\x06\x55\x48\x89\xe5\x5d\xc3\xe8\x00\x10\x00\x00\xeb\xed";
        check(code, &Registers::GO, (6, "push", true), (6, "push", true));
        // The same, with sub rsp, 8; ret in place of the push: the check itself, which a growing stack passes twice.
        let code = b"\x49\x3b\x66\x10\x76\x06\x31\xc0\x83\xec\x08\xc3\xe8\x00\x10\x00\x00\xeb\xed";
        check(code, &Registers::GO, (4, "jbe", false), (4, "jbe", false));
    }

    #[test]
    fn a_long_nop_of_five_bytes_is_taken_at_the_beginning_alone() {
        let c = &Registers::C[..3];
        check(b"\x0f\x1f\x44\x00\x00\x31\xff\xc3", c, (0, "nop", true), (0, "nop", true));
        check(b"\x31\xc0\x0f\x1f\x44\x00\x00\x31\xff\xc3", c, (0, "xor", true), (0, "xor", true));
        check(b"\x31\xc0\x0f\x1f\x40\x00\x31\xff\xc3", c, (2, "nop", true), (2, "nop", true));
    }

    #[test]
    fn an_inner_function_is_one_that_gets_the_same_arguments_and_begins_cheaply() {
        // sub rsp, 8; call +1; ret; push rbp; pop rbp; ret
        let code = b"\x48\x83\xec\x08\xe8\x01\x00\x00\x00\xc3\x55\x5d\xc3";
        let inner = |code: &[u8]| {
            let bytes = file(code);
            let elf = Elf::parse(&bytes as &dyn Bytes).unwrap();
            Function::read(&elf, BASE, 10).inner(&elf)
        };
        assert_eq!(inner(code), Some(BASE + 10));
        // xor esi, esi instead of sub; and a ret where it began with push
        assert_eq!(inner(b"\x31\xf6\x90\x90\xe8\x01\x00\x00\x00\xc3\x55\x5d\xc3"), None);
        assert_eq!(inner(b"\x48\x83\xec\x08\xe8\x01\x00\x00\x00\xc3\xc3"), None);
    }
}

//! Which errors a function reports: the constants that it hands to the function that keeps them.
//!
//! Only code that is reached from a constant is looked at: references to the source file's name are found by the bytes of the instruction that takes its
//! address, their functions by the tables for exceptions. That costs one pass over the code, not a disassembly of it.

use std::collections::BTreeSet;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use memchr::memmem;

use crate::uprobe::{code::MAX_FUNCTION, elf::Elf, unwind::Tables};

/// Code that is searched: that of Chrome, the largest that has BoringSSL in it, is some 190 MB.
const MAX_CODE: u64 = 256 << 20;
/// Bytes of code that are read at once.
const PIECE: u64 = 16 << 20;
/// References that are followed: BoringSSL's `ssl_lib.cc` has some 60, OpenSSL's some 250.
const MAX_REFERENCES: usize = 4096;
/// Callers of one function that are looked at.
const MAX_CALLERS: usize = 256;
/// Instructions from the beginning of a block to the call that reports: there are some ten.
const MAX_WAY: usize = 48;

/// The constants of one report; `None`: not one, or another on each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Report {
    /// Which of the source files that were asked for.
    pub(super) file: usize,
    pub(super) library: Option<u32>,
    pub(super) reason: Option<u32>,
    /// The address of its own name.
    pub(super) function: Option<u64>,
}

/// A function, what it reports, and whom it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reporter {
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) reports: BTreeSet<Report>,
    pub(super) calls: BTreeSet<u64>,
    /// Whom it calls first, with its own first three arguments.
    pub(super) hands_on_to: Option<u64>,
    /// It writes to memory that is not its own stack's.
    pub(super) changes: bool,
}

/// The names of source files: where each is, and which it is.
type Names = Vec<(u64, usize)>;

/// A file's code, to be asked.
pub(super) struct Code<'a> {
    elf: &'a Elf<'a>,
    tables: Tables,
    names: Names,
}

impl<'a> Code<'a> {
    /// `constants`: what the section of constants holds. `files`: how the names of source files end. `None`: there are no tables for exceptions.
    pub(super) fn of(elf: &'a Elf<'a>, constants: &[u8], files: &[&str]) -> Option<Code<'a>> {
        let mut names = Vec::new();
        for (file, name) in files.iter().enumerate() {
            names.extend(texts(elf, constants, name).into_iter().map(|text| (text, file)));
        }
        Some(Code { elf, tables: Tables::of(elf)?, names })
    }

    /// All functions that name one of the source files.
    pub(super) fn reporters(&self) -> Vec<Reporter> {
        // lea: the byte before the address' own tells the register.
        let is_reference = |code: &[u8], at: usize, end: u64| {
            let target = |bytes: &[u8]| {
                let displacement = i32::from_le_bytes(bytes.try_into().ok()?);
                Some(end.wrapping_add_signed(i64::from(displacement)))
            };
            let [0x8d, modrm] = code[at..at + 2] else { return false };
            modrm & 0xc7 == 5
                && target(&code[at + 2..at + 6])
                    .is_some_and(|to| self.names.iter().any(|(name, _)| *name == to))
        };
        let references = self.search(0x8d, 6, MAX_REFERENCES, is_reference);
        self.functions(&references)
    }

    /// The functions that call one.
    pub(super) fn callers(&self, function: u64) -> Vec<Reporter> {
        let is_call = |code: &[u8], at: usize, end: u64| {
            let displacement: [u8; 4] = code[at + 1..at + 5].try_into().unwrap_or_default();
            end.wrapping_add_signed(i64::from(i32::from_le_bytes(displacement))) == function
        };
        let calls = self.search(0xe8, 5, MAX_CALLERS, is_call);
        self.functions(&calls)
    }

    /// Where bytes that begin with `first` are wanted ones; `is_wanted` is told where in the code they are and the address behind them.
    fn search(
        &self,
        first: u8,
        length: usize,
        limit: usize,
        is_wanted: impl Fn(&[u8], usize, u64) -> bool,
    ) -> Vec<u64> {
        let mut found = Vec::new();
        let mut left = MAX_CODE;
        for (_, start, size) in self.elf.code_parts() {
            let size = size.min(left);
            left -= size;
            let mut at = 0;
            while at < size {
                let address = start.wrapping_add(at);
                // Each piece has the beginning of the next, for what lies across.
                let code = self.elf.memory(address, (size - at).min(PIECE + length as u64 - 1));
                for place in memchr::memchr_iter(first, &code) {
                    let end = address.wrapping_add((place + length) as u64);
                    if place + length <= code.len() && is_wanted(&code, place, end) {
                        found.push(address.wrapping_add(place as u64));
                    }
                }
                if found.len() > limit {
                    return Vec::new();
                }
                at += PIECE;
            }
        }
        found
    }

    /// The functions in which these addresses are.
    fn functions(&self, addresses: &[u64]) -> Vec<Reporter> {
        let bounds = addresses.iter().filter_map(|address| self.tables.function(*address));
        let bounds: BTreeSet<(u64, u64)> = bounds.filter(|(_, size)| *size <= MAX_FUNCTION).collect();
        let read = |(address, size)| {
            let code = self.elf.memory(address, size);
            reporter(&code, address, &self.names)
        };
        bounds.into_iter().map(read).collect()
    }
}

/// Where texts are that end with `end`.
fn texts(elf: &Elf<'_>, constants: &[u8], end: &str) -> Vec<u64> {
    let base = elf.section(".rodata").map_or(0, |section| section.address);
    let found = memmem::find_iter(constants, end).filter(|at| constants.get(at + end.len()) == Some(&0));
    let starts = found.map(|at| {
        let start = memchr::memrchr(0, &constants[..at]).map_or(0, |zero| zero + 1);
        base.wrapping_add(start as u64)
    });
    starts.collect()
}

/// What is in a function's code; `names` are the addresses that a report begins with.
fn reporter(code: &[u8], address: u64, names: &Names) -> Reporter {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let instructions: Vec<Instruction> = decoder.iter().take_while(|one| !one.is_invalid()).collect();
    let end = address.wrapping_add(code.len() as u64);
    let outside = |target: &u64| !(address..end).contains(target);
    let calls = instructions.iter().filter_map(|one| match one.flow_control() {
        FlowControl::Call => near(one),
        FlowControl::UnconditionalBranch => near(one).filter(outside),
        _ => None,
    });
    let mut reporter = Reporter {
        address,
        size: code.len() as u64,
        reports: BTreeSet::new(),
        calls: calls.collect(),
        hands_on_to: hands_on_to(&instructions),
        changes: changes(&instructions),
    };
    // What is known at a block's beginning depends on the way; within it, and from there on, it does not.
    let branches = instructions.iter().filter_map(near);
    let behind =
        instructions.iter().filter(|one| one.flow_control() != FlowControl::Next).map(|one| one.next_ip());
    let blocks: BTreeSet<u64> = branches.chain(behind).chain([address]).collect();
    for block in blocks {
        if let Some(report) = report(&instructions, block, names) {
            reporter.reports.insert(report);
        }
    }
    reporter
}

/// The target of a call or jump within the file.
fn near(one: &Instruction) -> Option<u64> {
    (one.op_count() > 0 && one.op0_kind() == OpKind::NearBranch64).then(|| one.near_branch_target())
}

/// Follows the code from an address up to the first call: what it reports, if it does.
fn report(instructions: &[Instruction], from: u64, names: &Names) -> Option<Report> {
    let mut factory = InstructionInfoFactory::new();
    let mut known: [Option<u64>; 16] = [None; 16];
    let place = |address: u64| instructions.binary_search_by_key(&address, Instruction::ip).ok();
    let mut at = place(from)?;
    for _ in 0..MAX_WAY {
        let one = instructions.get(at)?;
        at += 1;
        match one.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            FlowControl::UnconditionalBranch => {
                at = place(near(one)?)?;
                continue;
            }
            FlowControl::Call => return reported(&known, names),
            _ => return None,
        }
        let written = factory.info(one).used_registers().iter().filter(|used| is_written(used.access()));
        let numbers: Vec<usize> = written.filter_map(|used| number(used.register())).collect();
        for number in numbers {
            known[number] = value(one);
        }
    }
    None
}

/// The constant that an instruction leaves in its register.
fn value(one: &Instruction) -> Option<u64> {
    let is_whole = one.op0_kind() == OpKind::Register && one.op0_register().size() >= 4;
    match one.mnemonic() {
        Mnemonic::Lea if one.is_ip_rel_memory_operand() => Some(one.ip_rel_memory_address()),
        Mnemonic::Mov if is_whole => match one.op1_kind() {
            OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => Some(one.immediate(1)),
            _ => None,
        },
        Mnemonic::Xor if is_whole && one.op1_kind() == OpKind::Register => {
            (one.op0_register() == one.op1_register()).then_some(0)
        }
        _ => None,
    }
}

/// BoringSSL: `ERR_put_error(library, 0, reason, file, line)`; OpenSSL 3: `ERR_set_debug(file, line, function)`, which stands before the rest.
fn reported(known: &[Option<u64>; 16], names: &Names) -> Option<Report> {
    let [rcx, rdx, rdi] = [1, 2, 7].map(|number: usize| known[number]);
    let file =
        |value: Option<u64>| names.iter().find(|(name, _)| Some(*name) == value).map(|(_, file)| *file);
    let narrow = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
    if let Some(file) = file(rcx) {
        return Some(Report { file, library: narrow(rdi), reason: narrow(rdx), function: None });
    }
    file(rdi).map(|file| Report { file, library: None, reason: None, function: rdx })
}

/// Whom it calls first, if nothing was put in place of its first three arguments.
fn hands_on_to(instructions: &[Instruction]) -> Option<u64> {
    let mut factory = InstructionInfoFactory::new();
    for one in instructions.iter().take(MAX_WAY) {
        match one.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            FlowControl::Call => return near(one),
            _ => return None,
        }
        let used = factory.info(one).used_registers().iter();
        let mut written =
            used.filter(|used| is_written(used.access())).filter_map(|used| number(used.register()));
        if written.any(|number| [2, 6, 7].contains(&number)) {
            return None;
        }
    }
    None
}

/// Where the frame pointer is in use, what is behind it is taken for the stack.
fn changes(instructions: &[Instruction]) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let of_stack = |register: Register| matches!(register.full_register(), Register::RSP | Register::RBP);
    instructions.iter().any(|one| {
        let used = factory.info(one).used_memory().iter();
        let mut written = used.filter(|used| is_written(used.access()));
        written.any(|used| used.base() != Register::None && !of_stack(used.base()))
    })
}

fn is_written(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn number(register: Register) -> Option<usize> {
    let number = (register.full_register() as usize).checked_sub(Register::RAX as usize)?;
    (number < 16).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x1000;
    const NAME: u64 = 0x9000;
    const PUT: u64 = 0x5000;

    /// A function's code, put together piece by piece.
    #[derive(Default)]
    struct Code(Vec<u8>);

    impl Code {
        fn bytes(mut self, bytes: &[u8]) -> Code {
            self.0.extend(bytes);
            self
        }

        /// An instruction that ends with the way to an address.
        fn to(self, opcode: &[u8], target: u64) -> Code {
            let end = AT + (self.0.len() + opcode.len() + 4) as u64;
            let way = (target as i64 - end as i64) as i32;
            self.bytes(opcode).bytes(&way.to_le_bytes())
        }

        /// lea rcx, name
        fn name(self) -> Code {
            self.to(b"\x48\x8d\x0d", NAME)
        }

        /// mov edx, reason
        fn reason(self, reason: u32) -> Code {
            self.bytes(b"\xba").bytes(&reason.to_le_bytes())
        }

        /// xor esi, esi; mov edi, 16; call ERR_put_error
        fn put(self) -> Code {
            self.bytes(b"\x31\xf6\xbf\x10\0\0\0").to(b"\xe8", PUT)
        }

        fn read(&self) -> Reporter {
            reporter(&self.0, AT, &vec![(NAME, 7)])
        }

        fn reasons(&self) -> Vec<Option<u32>> {
            self.read().reports.into_iter().map(|report| report.reason).collect()
        }
    }

    #[test]
    fn a_report_is_read_from_the_constants_before_the_call() {
        let code = Code::default().name().reason(226).put().bytes(b"\xc3");
        let report = Report { file: 7, library: Some(16), reason: Some(226), function: None };
        let read = code.read();
        assert_eq!((&read.reports, &read.calls), (&[report].into(), &[PUT].into()));
        assert_eq!((read.address, read.size, read.hands_on_to), (AT, code.0.len() as u64, None));
        // In another order, and from a register that has another value meanwhile.
        let code = Code::default().reason(1).reason(215).name().put();
        assert_eq!(code.reasons(), [Some(215)]);
        // OpenSSL 3 names the function: lea rdi, file; lea rdx, function; call
        let code = Code::default().to(b"\x48\x8d\x3d", NAME).to(b"\x48\x8d\x15", 0x9900).to(b"\xe8", PUT);
        let report = Report { file: 7, library: None, reason: None, function: Some(0x9900) };
        assert_eq!(code.read().reports, [report].into());
    }

    #[test]
    fn two_errors_that_share_their_end_are_both_read() {
        // je to the second; first: mov edx, 1; jmp behind the second; second: mov edx, 2; the common end
        let code = Code::default().bytes(b"\x74\x07").reason(1).bytes(b"\xeb\x05").reason(2).name().put();
        // From the common end alone, what is in the register is not known.
        assert_eq!(code.reasons(), [None, Some(1), Some(2)]);
    }

    #[test]
    fn what_is_not_a_constant_is_not_known() {
        // mov edx, 1; cmove edx, eax: one of two
        let code = Code::default().reason(1).bytes(b"\x0f\x44\xd0").name().put();
        assert_eq!(code.reasons(), [None]);
        // A call in between leaves nothing as it was.
        let code = Code::default().reason(1).to(b"\xe8", 0x6000).name().put();
        assert_eq!(code.reasons(), [None]);
        // Another file's.
        let code = Code::default().to(b"\x48\x8d\x0d", NAME + 1).reason(1).put();
        assert_eq!(code.reasons(), []);
    }

    #[test]
    fn it_is_known_whether_arguments_are_handed_on_and_memory_is_changed() {
        // push rbx; mov rbx, rdi; call
        let code = Code::default().bytes(b"\x53\x48\x89\xfb").to(b"\xe8", 0x6000);
        assert_eq!((code.read().hands_on_to, code.read().changes), (Some(0x6000), false));
        // mov rsi, rdi; call
        let code = Code::default().bytes(b"\x48\x89\xfe").to(b"\xe8", 0x6000);
        assert_eq!(code.read().hands_on_to, None);
        for (bytes, changes) in [
            // mov [rsp + 8], rdi; mov [rbp - 8], rdi; mov rdi, [rax]; mov [rbx + 8], rdi; add [rax], rcx
            (&b"\x48\x89\x7c\x24\x08"[..], false),
            (b"\x48\x89\x7d\xf8", false),
            (b"\x48\x8b\x38", false),
            (b"\x48\x89\x7b\x08", true),
            (b"\x48\x01\x08", true),
        ] {
            assert_eq!(Code::default().bytes(bytes).read().changes, changes, "{bytes:02x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_code_is_survived(
            code in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            address in proptest::prelude::any::<u64>(),
        ) {
            reporter(&code, address, &vec![(NAME, 0)]);
        }
    }
}

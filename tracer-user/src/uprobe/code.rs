//! The instructions of a function as a uprobe sees them: how long each is, where it goes, what it overwrites, and what a probe on it costs.
//!
//! The kernel replaces the instruction by a breakpoint. Some instructions it then emulates; others it runs from a copy, under a
//! single-step trap, which is the second of two exceptions and by far the dearer one. Nanoseconds per hit, kernel 6.18, a nested virtual
//! machine, November 2026: emulated 720–960, single-stepped 12,000–17,000 (on bare metal two to three times the emulated). Which
//! instructions are of which kind was tried there too, one by one, with a counter on functions made for it.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction as Decoded, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use serde::Serialize;

/// Bytes of one function that are decoded: the largest of OpenSSL that reads or writes has some 4,000.
pub const MAX_FUNCTION: u64 = 64 << 10;

/// What the kernel does with a probed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Emulates it, on every kernel.
    Emulated,
    /// A no-operation of several bytes: emulated or better from 6.18 on, single-stepped before.
    LongNop,
    /// Runs a copy of it under single-step.
    SingleStepped,
    /// Refuses the probe.
    Refused,
}

/// Where an instruction leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the one behind it.
    Behind,
    /// To the one behind it or to an address.
    Maybe(u64),
    /// To an address.
    Jump(u64),
    /// To a function and back.
    Call(Option<u64>),
    /// Out of the function.
    Return,
    /// Somewhere that only running it tells, or nowhere.
    Unknown,
}

/// Registers of 64 bits, one bit each by their number in the instruction set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers(pub u16);

impl Registers {
    /// Arguments 1 to 4 of the System V calling convention: rdi, rsi, rdx, rcx.
    pub const C: [Registers; 4] =
        [Registers(1 << 7), Registers(1 << 6), Registers(1 << 2), Registers(1 << 1)];
    /// Its fifth: r8.
    pub const C_FIFTH: Registers = Registers(1 << 8);
    /// Arguments 1 to 3 of Go's since 1.17: rax, rbx, rcx.
    pub const GO: [Registers; 3] = [Registers(1), Registers(1 << 3), Registers(1 << 1)];
    /// The stack pointer.
    pub const STACK: Registers = Registers(1 << 4);

    /// All of them.
    pub fn all(some: &[Registers]) -> Registers {
        Registers(some.iter().fold(0, |all, one| all | one.0))
    }

    /// Whether both have one in common.
    pub fn overlaps(self, other: Registers) -> bool {
        self.0 & other.0 != 0
    }
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its address before relocation.
    pub address: u64,
    /// Its bytes.
    pub length: u8,
    /// What it is called.
    pub mnemonic: Mnemonic,
    /// What a probe on it costs.
    pub step: Step,
    /// Where it leads.
    pub next: Next,
    /// What it overwrites.
    pub writes: Registers,
}

impl Instruction {
    /// The address of the one behind it.
    pub fn end(&self) -> u64 {
        self.address.wrapping_add(u64::from(self.length))
    }

    /// Its name as assemblers write it.
    pub fn name(&self) -> String {
        format!("{:?}", self.mnemonic).to_lowercase()
    }
}

/// Decodes code from its beginning up to its end or the first bytes that are no instruction.
pub fn decode(code: &[u8], address: u64) -> Vec<Instruction> {
    let code = &code[..code.len().min(MAX_FUNCTION as usize)];
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut factory = InstructionInfoFactory::new();
    let mut instructions = Vec::new();
    let mut decoded = Decoded::default();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut decoded);
        if decoded.is_invalid() {
            break;
        }
        instructions.push(Instruction {
            address: decoded.ip(),
            length: decoded.len() as u8,
            mnemonic: decoded.mnemonic(),
            step: step(&code[start..decoder.position()], decoded.mnemonic()),
            next: next(&decoded),
            writes: writes(&decoded, &mut factory),
        });
    }
    instructions
}

fn next(decoded: &Decoded) -> Next {
    let near =
        matches!(decoded.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    let target = near.then(|| decoded.near_branch_target());
    match decoded.flow_control() {
        FlowControl::Next | FlowControl::Interrupt => Next::Behind,
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
            target.map_or(Next::Behind, Next::Maybe)
        }
        FlowControl::UnconditionalBranch => target.map_or(Next::Unknown, Next::Jump),
        FlowControl::Call | FlowControl::IndirectCall => Next::Call(target),
        FlowControl::Return => Next::Return,
        FlowControl::IndirectBranch | FlowControl::Exception => Next::Unknown,
    }
}

fn writes(decoded: &Decoded, factory: &mut InstructionInfoFactory) -> Registers {
    let info = factory.info(decoded);
    let written = info.used_registers().iter().filter(|used| {
        matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    });
    Registers(written.fold(0, |all, used| {
        let full = used.register().full_register();
        let number = (full as u32).wrapping_sub(Register::RAX as u32);
        if number < 16 { all | 1 << number } else { all }
    }))
}

/// What the kernel does, by the instruction's bytes as it looks at them: `arch_uprobe_analyze_insn` of
/// [arch/x86/kernel/uprobes.c](https://github.com/torvalds/linux/blob/v6.18/arch/x86/kernel/uprobes.c).
fn step(bytes: &[u8], mnemonic: Mnemonic) -> Step {
    let n_prefixes = bytes.iter().position(|byte| !is_prefix(*byte)).unwrap_or(bytes.len());
    let (prefixes, rest) = bytes.split_at(n_prefixes);
    // Segments that mean nothing in 64 bits, and lock.
    if prefixes.iter().any(|prefix| matches!(prefix, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0)) {
        return Step::Refused;
    }
    let (rex, opcode) = match rest {
        [rex @ 0x40..=0x4f, opcode @ ..] => (Some(*rex), opcode),
        opcode => (None, opcode),
    };
    let has_66 = prefixes.contains(&0x66);
    match *opcode {
        // Behind rex.b it is an exchange, which 6.18 still emulates as if it did nothing: a probe would change what the program does.
        [0x90] if rex.is_some_and(|rex| rex & 1 != 0) => Step::Refused,
        [0x90] => Step::Emulated,
        [0x50..=0x57] if prefixes.is_empty() && rex.is_none_or(|rex| rex == 0x41) => Step::Emulated,
        [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] if !has_66 => Step::Emulated,
        [0x0f, 0x1f, ..] if LONG_NOPS.contains(&bytes) => Step::LongNop,
        // The prefixes of AVX.
        [0x62 | 0xc4 | 0xc5, ..] => Step::Refused,
        _ if is_forbidden(mnemonic) => Step::Refused,
        _ => Step::SingleStepped,
    }
}

/// No-operations that 6.18 emulates; of other encodings and of nine bytes it does not.
const LONG_NOPS: [&[u8]; 6] = [
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
];

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
}

fn is_forbidden(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Cli, Hlt, In, Insb, Insd, Insw, Int, Int1, Int3, Out, Outsb, Outsd, Outsw, Sti};
    matches!(
        mnemonic,
        Cli | Hlt | In | Insb | Insd | Insw | Int | Int1 | Int3 | Out | Outsb | Outsd | Outsw | Sti
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Step) {
        let decoded = decode(bytes, 0x1000);
        assert_eq!((decoded.len(), decoded[0].step), (1, expected), "{bytes:02x?} {decoded:?}");
    }

    #[test]
    fn the_kernel_emulates_branches_pushes_and_nops_and_little_else() {
        for bytes in [
            &b"\x90"[..],
            b"\x55",
            b"\x41\x57",
            b"\xe8\x01\x02\x03\x04",
            b"\xe9\x01\x02\x03\x04",
            b"\xeb\x10",
            b"\x78\x2f",
            b"\x0f\x86\x01\x02\x03\x04",
            b"\xf3\x90",
            b"\x66\x90",
        ] {
            check(bytes, Step::Emulated);
        }
        for bytes in [
            // endbr64, sub rsp, mov, xor, test, pop, ret, indirect jump, push of an immediate, push with rex.w, exchange
            &b"\xf3\x0f\x1e\xfa"[..],
            b"\x48\x83\xec\x18",
            b"\x48\x89\xfb",
            b"\x31\xc0",
            b"\x85\xd2",
            b"\x5d",
            b"\xc3",
            b"\xff\x60\x10",
            b"\x6a\x01",
            b"\x48\x55",
            b"\x66\x55",
            b"\x0f\x1f\x04\x00",
            b"\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
        ] {
            check(bytes, Step::SingleStepped);
        }
        for bytes in LONG_NOPS {
            check(bytes, Step::LongNop);
        }
        for bytes in [
            &b"\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00"[..],
            b"\xf0\x48\x01\x07",
            b"\xf4",
            b"\xcc",
            b"\xc5\xf9\xef\xc0",
            b"\x62\xf1\x7d\x08\xef\xc0",
            b"\x41\x90",
        ] {
            check(bytes, Step::Refused);
        }
    }

    #[test]
    fn what_is_overwritten_is_known_whatever_part_of_a_register_it_is() {
        let [rdi, rsi, rdx, rcx] = Registers::C;
        for (bytes, writes) in [
            (&b"\x31\xff"[..], rdi),
            (b"\x40\xb6\x01", rsi),
            (b"\x48\x63\xd2", rdx),
            (b"\xb1\x05", rcx),
            (b"\x48\x89\xfb", Registers(1 << 3)),
            (b"\x48\x83\xec\x18", Registers::STACK),
            (b"\xf3\xa4", Registers::all(&[rdi, rsi, rcx])),
            (b"\x39\xf7", Registers(0)),
        ] {
            assert_eq!(decode(bytes, 0)[0].writes, writes, "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), address: u64) {
            let n: usize = decode(&bytes, address).iter().map(|one| usize::from(one.length)).sum();
            prop_assert!(n <= bytes.len());
        }
    }
}

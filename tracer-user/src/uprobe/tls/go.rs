//! Go's `crypto/tls`: where its clear text is given and taken.
//!
//! A return probe breaks Go, whose stacks move, and probes on its returns cost 12 to 17 µs each. Neither is needed: `Read` gives bytes at one
//! place within, and `Write` sends them by calls of one other function. Calls are instructions that the kernel emulates.
//!
//! * `(*Conn).Read` ends in `n, _ := c.input.Read(b)` (crypto/tls/conn.go); the input is a `bytes.Reader`. Compilers from 1.19 to 1.26 put its
//!   `Read` in place, so that a `call runtime.memmove` is left; without inlining it is a `call bytes.(*Reader).Read`. Each `Read` that returns data
//!   passes it once, and no other. The connection is no argument of that call: it is read where Go's calling convention keeps first arguments
//!   ([`Frame`]), and whether it does is checked.
//! * `(*Conn).Write` calls `writeRecordLocked(type, data)` with type 23 behind the handshake. The call and not the function's beginning: of the
//!   latter some compilers leave no place that is passed once. It defers, so that no compiler puts it in place. Behind each of these calls is a
//!   second place: when it is passed the bytes have gone over the wire.
//! * `(*Conn).clientHandshake` and `serverHandshake` run once for each connection.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction as Decoded, Mnemonic, OpKind, Register};
use serde::Serialize;

use super::{End, Function, families::Family};
use crate::uprobe::{
    code::{Next, Registers, Step},
    elf::Elf,
    go,
    placement::{Function as Code, Site},
};

const READ: &str = "crypto/tls.(*Conn).Read";
const WRITE: &str = "crypto/tls.(*Conn).Write";
const WRITE_RECORD: &str = "crypto/tls.(*Conn).writeRecordLocked";
/// A program that only serves, or only asks, has one of them.
const HANDSHAKES: [&str; 2] = ["crypto/tls.(*Conn).clientHandshake", "crypto/tls.(*Conn).serverHandshake"];

/// Copies of `to`, `from` and a length.
const MEMMOVE: &str = "runtime.memmove";
/// Copies out of a reader, to a buffer with a length.
const READER: &str = "bytes.(*Reader).Read";
/// Callers of `writeRecordLocked` in `Write`: for all of the data; and, where TLS 1.0 wants it, for its first byte before.
const MAX_WRITES: usize = 2;
/// Instructions behind a call among which one is emulated: a branch on its error is the second to tenth.
const MAX_BEHIND: usize = 40;
/// Bytes of a function's beginning in which its arguments are kept.
const MAX_PROLOGUE: u64 = 256;

/// What a call that gives bytes gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Copy {
    /// `runtime.memmove`: rax = to, rbx = from, rcx = bytes.
    Memmove,
    /// `bytes.(*Reader).Read`: rax = the reader (address of its bytes, how many, their capacity, the next one's index), rbx = to, rcx = room.
    Reader,
}

/// A call that sends, and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Send {
    /// The call: rax = the connection, bl = the records' type, rcx = the bytes, rdi = how many.
    pub call: Site,
    /// The first place behind it: the bytes have been sent, or it failed.
    pub behind: Site,
}

/// Whether the file is a program of Go, and where its clear text is seen: all places or, with a note, none.
pub(super) fn find(elf: &Elf<'_>) -> Option<(Family, Vec<Function>)> {
    let version = go::version(elf);
    let table = go::Functions::of(elf);
    if version.is_none() && table.is_none() {
        return None;
    }
    let mut family = Family { kind: "Go crypto/tls", version, note: None };
    let Some(table) = table else {
        family.note = Some("its table of functions is none of Go 1.18 or later".to_owned());
        return Some((family, Vec::new()));
    };
    if table.named(READ).is_none() && table.named(WRITE).is_none() {
        family.kind = "Go";
        family.note = Some("a program of Go without crypto/tls".to_owned());
        return Some((family, Vec::new()));
    }
    match places(elf, &table) {
        Ok(functions) => Some((family, functions)),
        Err(note) => {
            family.note = Some(note);
            Some((family, Vec::new()))
        }
    }
}

fn places(elf: &Elf<'_>, table: &go::Functions) -> Result<Vec<Function>, String> {
    let [connection, ..] = Registers::GO;
    let missing = |name: &str| format!("{name} is not in its table of functions");
    let code = |name: &str| {
        let symbol = table.named(name)?;
        Some(Code::read(elf, symbol.address, symbol.size))
    };
    let address = |name: &str| table.named(name).map(|symbol| symbol.address);
    let keeps = |name: &str, code: &Code| {
        let frame = Frame::of(&elf.memory(code.address, MAX_PROLOGUE));
        let is_kept = frame.keeps_first_argument();
        is_kept
            .then_some(())
            .ok_or_else(|| format!("{name} does not keep its connection where it is looked for"))
    };
    let no_place = |name: &str| format!("{name} has no cheap place that sees its arguments");
    let function = |name: &str, code: &Code, entry: Option<Site>, end: End| {
        let file_offset = elf.file_offset(code.address).ok_or_else(|| no_place(name))?;
        Ok::<_, String>(Function { name: name.to_owned(), file_offset, entry, end })
    };
    let entry = |name: &str, code: &Code| {
        let site = code.entry(elf, connection).filter(|site| site.step == Step::Emulated);
        site.map(Some).ok_or_else(|| no_place(name))
    };

    let read = code(READ).ok_or_else(|| missing(READ))?;
    let (site, copy) = copy(elf, &read, address(MEMMOVE), address(READER))
        .ok_or_else(|| format!("{READ} does not copy what it gives at one place alone"))?;
    keeps(READ, &read)?;
    let mut functions = vec![function(READ, &read, entry(READ, &read)?, End::Copies(site, copy))?];

    let write = code(WRITE).ok_or_else(|| missing(WRITE))?;
    let sends = sends(elf, &write, address(WRITE_RECORD).ok_or_else(|| missing(WRITE_RECORD))?);
    let sends = sends.ok_or_else(|| format!("{WRITE} has no cheap places that see what it sends"))?;
    functions.push(function(WRITE, &write, None, End::Sends(sends))?);

    let n_before = functions.len();
    for name in HANDSHAKES {
        if let Some(code) = code(name) {
            functions.push(function(name, &code, entry(name, &code)?, End::Unneeded)?);
        }
    }
    if functions.len() == n_before {
        return Err("it has neither side's handshake".to_owned());
    }
    Ok(functions)
}

/// The one call in `Read` that copies, and what it gets; `None`: there is none, or there are several.
fn copy(elf: &Elf<'_>, read: &Code, memmove: Option<u64>, reader: Option<u64>) -> Option<(Site, Copy)> {
    let to = |target: Option<u64>, copy| {
        target.into_iter().flat_map(|target| calls(read, target)).map(move |address| (address, copy))
    };
    let mut found = to(memmove, Copy::Memmove).chain(to(reader, Copy::Reader));
    let (address, copy) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let site = read.site_at(elf, address).filter(|site| site.step == Step::Emulated)?;
    Some((site, copy))
}

/// The calls in `Write` that send, all or none.
fn sends(elf: &Elf<'_>, write: &Code, record: u64) -> Option<Vec<Send>> {
    let sends: Option<Vec<Send>> = calls(write, record)
        .map(|address| {
            let call = write.site_at(elf, address).filter(|site| site.step == Step::Emulated)?;
            Some(Send { call, behind: behind(elf, write, address)? })
        })
        .collect();
    sends.filter(|sends| (1..=MAX_WRITES).contains(&sends.len()))
}

/// The first cheap place behind a call to which nothing else leads.
fn behind(elf: &Elf<'_>, code: &Code, call: u64) -> Option<Site> {
    let at = code.instructions.binary_search_by_key(&call, |one| one.address).ok()?;
    for one in code.instructions[at + 1..].iter().take(MAX_BEHIND) {
        let is_target = code
            .instructions
            .iter()
            .any(|other| matches!(other.next, Next::Maybe(to) | Next::Jump(to) if to == one.address));
        if is_target {
            return None;
        }
        if one.step == Step::Emulated {
            return code.site_at(elf, one.address);
        }
        if one.next != Next::Behind {
            return None;
        }
    }
    None
}

/// How a function's beginning lays out its frame, by distances from the stack pointer that it was called with.
///
/// Go keeps what it was given in registers, when it needs it later, in words above the return address that its caller left for that (the "spill
/// area" of the [calling convention](https://go.dev/s/regabi)): the first argument in the first. Its frame pointer is the word below the return address.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    /// Where the frame pointer points.
    pointer: Option<i64>,
    /// Where the first argument is kept.
    argument: Option<i64>,
}

impl Frame {
    /// Follows the beginning of a function up to its first call.
    fn of(code: &[u8]) -> Frame {
        let mut frame = Frame::default();
        let mut stack = 0_i64;
        let mut is_argument = true;
        let mut decoded = Decoded::default();
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        while decoder.can_decode() {
            decoder.decode_out(&mut decoded);
            let (to, from) = (decoded.op0_register(), decoded.op1_register());
            let on_stack = |base| base == Register::RSP && decoded.memory_index() == Register::None;
            let place = stack.wrapping_add(decoded.memory_displacement64().cast_signed());
            match decoded.flow_control() {
                FlowControl::Next => {}
                // The check of the stack's room.
                FlowControl::ConditionalBranch if stack == 0 => continue,
                _ => break,
            }
            match decoded.mnemonic() {
                Mnemonic::Cmp | Mnemonic::Test => {}
                Mnemonic::Push => stack -= 8,
                Mnemonic::Pop => stack += 8,
                Mnemonic::Sub | Mnemonic::Add if to == Register::RSP => {
                    let Ok(n) = decoded.try_immediate(1) else { break };
                    let n = n.cast_signed();
                    stack = stack.wrapping_sub(if decoded.mnemonic() == Mnemonic::Sub { n } else { -n });
                }
                Mnemonic::Mov if (to, from) == (Register::RBP, Register::RSP) => frame.pointer = Some(stack),
                Mnemonic::Lea if to == Register::RBP && on_stack(decoded.memory_base()) => {
                    frame.pointer = Some(place);
                }
                Mnemonic::Mov
                    if decoded.op0_kind() == OpKind::Memory
                        && on_stack(decoded.memory_base())
                        && from == Register::RAX
                        && is_argument =>
                {
                    frame.argument = Some(place);
                }
                _ if to.full_register() == Register::RSP && decoded.op0_kind() == OpKind::Register => break,
                _ if to.full_register() == Register::RAX => is_argument = false,
                _ => {}
            }
            if frame.keeps_first_argument() {
                break;
            }
        }
        frame
    }

    /// Whether the first argument is two words above where the frame pointer points.
    fn keeps_first_argument(&self) -> bool {
        (self.pointer, self.argument) == (Some(-8), Some(8))
    }
}

/// Where a function calls another one.
fn calls(code: &Code, target: u64) -> impl Iterator<Item = u64> {
    let calls = code.instructions.iter().filter(move |one| one.next == Next::Call(Some(target)));
    calls.map(|one| one.address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::uprobe::{bytes::Bytes, placement::tests::file};

    const BASE: u64 = 0x401000;
    /// Where calls of the code below lead.
    const OTHER: u64 = BASE + 0x105;

    #[track_caller]
    fn check(code: &[u8], memmove: Option<u64>, reader: Option<u64>, expected: Option<(u64, Copy)>) {
        let bytes = file(code);
        let elf = Elf::parse(&bytes as &dyn Bytes).unwrap();
        let read = Code::read(&elf, BASE, code.len() as u64);
        let found = copy(&elf, &read, memmove, reader);
        assert_eq!(found.map(|(site, copy)| (site.into, copy)), expected);
    }

    #[test]
    fn the_one_call_that_copies_is_taken_and_none_of_several() {
        // call OTHER; ret
        let one = b"\xe8\x00\x01\x00\x00\xc3";
        check(one, Some(OTHER), None, Some((0, Copy::Memmove)));
        check(one, None, Some(OTHER), Some((0, Copy::Reader)));
        check(one, Some(BASE), Some(BASE), None);
        check(one, None, None, None);
        // call OTHER; call OTHER; ret
        let two = b"\xe8\x00\x01\x00\x00\xe8\xfb\x00\x00\x00\xc3";
        check(two, Some(OTHER), None, None);
        // call OTHER; call OTHER + 5; ret: one of each form
        let both = b"\xe8\x00\x01\x00\x00\xe8\x00\x01\x00\x00\xc3";
        check(both, Some(OTHER), Some(OTHER + 5), None);
        // jmp OTHER is no call: what it returns is the caller's
        check(b"\xe9\x00\x01\x00\x00", Some(OTHER), None, None);
    }

    #[track_caller]
    fn check_sends(code: &[u8], expected: Option<&[(u64, u64)]>) {
        let bytes = file(code);
        let elf = Elf::parse(&bytes as &dyn Bytes).unwrap();
        let write = Code::read(&elf, BASE, code.len() as u64);
        let found = sends(&elf, &write, OTHER);
        let found: Option<Vec<(u64, u64)>> =
            found.map(|sends| sends.iter().map(|send| (send.call.into, send.behind.into)).collect());
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn each_call_that_sends_has_a_place_behind_it_to_which_nothing_else_leads() {
        // call OTHER; test rbx, rbx; je +0; ret
        check_sends(b"\xe8\x00\x01\x00\x00\x48\x85\xdb\x74\x00\xc3", Some(&[(0, 8)]));
        // The same twice, the first's call being the place behind itself: call OTHER; call OTHER; push rbp; ret
        check_sends(b"\xe8\x00\x01\x00\x00\xe8\xfb\x00\x00\x00\x55\xc3", Some(&[(0, 5), (5, 10)]));
        // call OTHER; mov rdx, rax; ret: no place
        check_sends(b"\xe8\x00\x01\x00\x00\x48\x89\xc2\xc3", None);
        // je behind the call; call OTHER; push rbp; ret: it is passed without the call, too
        check_sends(b"\x74\x05\xe8\xfe\x00\x00\x00\x55\xc3", None);
        check_sends(b"\xc3", None);
    }

    #[track_caller]
    fn check_frame(code: &[u8], pointer: Option<i64>, argument: Option<i64>, keeps: bool) {
        let frame = Frame::of(code);
        assert_eq!((frame.keeps_first_argument(), &frame), (keeps, &Frame { pointer, argument }));
    }

    #[test]
    fn the_connection_is_looked_for_only_where_the_function_keeps_it() {
        // Go 1.26: cmp rsp, [r14+0x10]; jbe; push rbp; mov rbp, rsp; sub rsp, 0x58; mov [rsp+0x68], rax
        let new =
            b"\x49\x3b\x66\x10\x0f\x86\x7a\x03\x00\x00\x55\x48\x89\xe5\x48\x83\xec\x58\x48\x89\x44\x24\x68";
        check_frame(new, Some(-8), Some(8), true);
        // Go 1.19: sub rsp, 0x68; mov [rsp+0x60], rbp; lea rbp, [rsp+0x60]; mov [rsp+0x70], rax
        let old = b"\x48\x83\xec\x68\x48\x89\x6c\x24\x60\x48\x8d\x6c\x24\x60\x48\x89\x44\x24\x70";
        check_frame(old, Some(-8), Some(8), true);
        // In another word: mov [rsp+0x60], rax
        let other = [&new[..22], b"\x60"].concat();
        check_frame(&other, Some(-8), Some(0), false);
        // Overwritten before: xor eax, eax; mov [rsp+0x68], rax
        let late = [&new[..18], b"\x31\xc0", &new[18..]].concat();
        check_frame(&late, Some(-8), None, false);
        // A call before: call; mov [rsp+0x68], rax
        let late = [&new[..18], b"\xe8\x00\x00\x00\x00", &new[18..]].concat();
        check_frame(&late, Some(-8), None, false);
        // By an index that is not known: mov [rsp+rcx+0x68], rax
        let unknown = [&new[..18], b"\x48\x89\x44\x0c\x68"].concat();
        check_frame(&unknown, Some(-8), None, false);
        check_frame(b"", None, None, false);
    }

    proptest! {
        #[test]
        fn any_code_is_survived(code in prop::collection::vec(any::<u8>(), 0..200)) {
            Frame::of(&code);
        }
    }
}

//! USDT: places that a program's author marked for probes, in notes of the type `stapsdt`.

use super::elf::Elf;

/// Marks of one file that are kept: a large server has some hundred, inlined into a few places each.
const MAX_MARKS: usize = 16 << 10;

/// A place with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who offers it.
    pub provider: String,
    /// What it is called; several places may share a name.
    pub name: String,
    /// Its address before relocation.
    pub address: u64,
    /// Where it lies in the file: what the kernel is asked for.
    pub file_offset: u64,
    /// Where in the file the counter lies that has to be raised while somebody looks, if it has one.
    pub semaphore: Option<u64>,
    /// Where its arguments are, `SIZE@PLACE` in the assembler's words, as the note has it.
    pub arguments: String,
}

/// All marks of a file, in the order of their notes.
pub fn marks(elf: &Elf<'_>) -> Vec<Mark> {
    const STAPSDT: u32 = 3;
    let base = elf.section(".stapsdt.base").map(|section| section.address);
    let notes = elf.notes().into_iter().filter(|note| note.kind == STAPSDT && note.name == b"stapsdt");
    notes.filter_map(|note| mark(elf, base, &note.description)).take(MAX_MARKS).collect()
}

/// Three addresses and three texts: the mark's, that of the base when it was linked, the counter's; provider, name, arguments.
fn mark(elf: &Elf<'_>, base: Option<u64>, description: &[u8]) -> Option<Mark> {
    let (numbers, texts) = description.split_at_checked(24)?;
    let number = |at: usize| numbers.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    // A file moved after linking has its base elsewhere by as much as everything else.
    let moved = match base {
        Some(base) if number(8)? != 0 => base.wrapping_sub(number(8)?),
        _ => 0,
    };
    let mut texts = texts.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let (provider, name, arguments) = (texts.next()?, texts.next()?, texts.next()?);
    let address = number(0)?.wrapping_add(moved);
    let semaphore = match number(16)? {
        0 => None,
        address => elf.file_offset(address.wrapping_add(moved)),
    };
    Some(Mark { provider, name, address, file_offset: elf.file_offset(address)?, semaphore, arguments })
}

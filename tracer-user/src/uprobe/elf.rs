//! ELF files of x86-64: segments, sections, notes, the build id, and where a virtual address lies in the file.
//!
//! Nothing of a file is believed: sizes are checked against the file before anything is read, and a part that is damaged is missing,
//! not an error of the whole. Of a program without section headers only what segments tell is known.

use std::fmt;

use object::{
    LittleEndian as LE,
    elf::{
        DT_SONAME, Dyn64, EM_X86_64, ET_DYN, FileHeader64, PF_X, PT_DYNAMIC, PT_LOAD, PT_NOTE,
        ProgramHeader64, SHF_EXECINSTR, SHT_NOBITS, SHT_NOTE, SectionHeader64,
    },
    pod,
};

use super::bytes::Bytes;

/// Bytes of names of sections that are read.
const MAX_SECTION_NAMES: u64 = 1 << 20;
/// Bytes of one segment or section of notes that are read: USDT notes of a large server are some hundred of about 100 bytes.
const MAX_NOTES: u64 = 4 << 20;
/// Entries of the dynamic section that are read: there are about 30.
const MAX_DYNAMIC: usize = 4096;
/// Longest name that is taken from a table of strings.
pub(super) const MAX_NAME: usize = 64 << 10;

/// Why a file is not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Something else, or unreadable.
    #[error("not an ELF file")]
    NotElf,
    /// 32 bits, or another machine's.
    #[error("not a program for x86-64")]
    OtherMachine,
    /// The tables that everything hangs on are outside the file.
    #[error("a damaged ELF file")]
    Damaged,
}

/// A part of the file that is loaded, or describes the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `PT_…`.
    pub kind: u32,
    /// Whether it is executable.
    pub executable: bool,
    /// Where in the file.
    pub offset: u64,
    /// Where in memory, before relocation.
    pub address: u64,
    /// Bytes in the file.
    pub size: u64,
    /// Alignment.
    pub align: u64,
}

/// A named part of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// `SHT_…`.
    pub kind: u32,
    /// Whether it holds code.
    pub executable: bool,
    /// Where in memory, before relocation; 0 if nowhere.
    pub address: u64,
    /// Where in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Another section that belongs to it.
    pub link: usize,
    /// Alignment.
    pub align: u64,
}

/// An ELF file, its tables read.
pub struct Elf<'a> {
    bytes: &'a dyn Bytes,
    /// Address of the first instruction.
    pub entry: u64,
    /// Whether it can be loaded anywhere: a shared library or a position-independent program.
    pub relocatable: bool,
    /// Its segments.
    pub segments: Vec<Segment>,
    /// Its sections; empty where they were stripped.
    pub sections: Vec<Section>,
}

impl fmt::Debug for Elf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elf").field("segments", &self.segments).field("sections", &self.sections).finish()
    }
}

/// One note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Who defined its type, without the zero behind it.
    pub name: Vec<u8>,
    /// Its type.
    pub kind: u32,
    /// What it says.
    pub description: Vec<u8>,
}

impl<'a> Elf<'a> {
    /// Reads the tables.
    pub fn parse(bytes: &'a dyn Bytes) -> Result<Elf<'a>, ElfError> {
        let head = bytes.read_at(0, size_of::<FileHeader64<LE>>()).ok_or(ElfError::NotElf)?;
        let (header, _) = pod::from_bytes::<FileHeader64<LE>>(&head).map_err(|()| ElfError::NotElf)?;
        if header.e_ident.magic != *b"\x7fELF" {
            return Err(ElfError::NotElf);
        }
        // Class 2: 64 bits. Data 1: little-endian.
        let is_ours = header.e_ident.class == 2 && header.e_ident.data == 1;
        if !is_ours || header.e_machine.get(LE) != EM_X86_64 {
            return Err(ElfError::OtherMachine);
        }
        let mut elf = Elf {
            bytes,
            entry: header.e_entry.get(LE),
            relocatable: header.e_type.get(LE) == ET_DYN,
            segments: Vec::new(),
            sections: Vec::new(),
        };
        let n_segments = usize::from(header.e_phnum.get(LE));
        if n_segments > 0 {
            let table = bytes
                .read_at(header.e_phoff.get(LE), n_segments * size_of::<ProgramHeader64<LE>>())
                .ok_or(ElfError::Damaged)?;
            let (headers, _) = pod::slice_from_bytes::<ProgramHeader64<LE>>(&table, n_segments)
                .map_err(|()| ElfError::Damaged)?;
            elf.segments = headers.iter().map(Segment::of).collect();
        }
        elf.sections = elf.read_sections(header).unwrap_or_default();
        Ok(elf)
    }

    fn read_sections(&self, header: &FileHeader64<LE>) -> Option<Vec<Section>> {
        let n_sections = usize::from(header.e_shnum.get(LE));
        let table = self
            .bytes
            .read_at(header.e_shoff.get(LE), n_sections.checked_mul(size_of::<SectionHeader64<LE>>())?)?;
        let (headers, _) = pod::slice_from_bytes::<SectionHeader64<LE>>(&table, n_sections).ok()?;
        let names = headers.get(usize::from(header.e_shstrndx.get(LE)))?;
        let names =
            self.bytes.read_up_to(names.sh_offset.get(LE), names.sh_size.get(LE).min(MAX_SECTION_NAMES));
        Some(
            headers
                .iter()
                .map(|header| Section {
                    name: text_at(&names, header.sh_name.get(LE) as usize),
                    kind: header.sh_type.get(LE),
                    executable: header.sh_flags.get(LE) & u64::from(SHF_EXECINSTR) != 0,
                    address: header.sh_addr.get(LE),
                    offset: header.sh_offset.get(LE),
                    size: header.sh_size.get(LE),
                    link: header.sh_link.get(LE) as usize,
                    align: header.sh_addralign.get(LE),
                })
                .collect(),
        )
    }

    /// The file.
    pub fn bytes(&self) -> &'a dyn Bytes {
        self.bytes
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// What a section holds, at most `limit` bytes of it.
    pub fn data(&self, section: &Section, limit: u64) -> Vec<u8> {
        if section.kind == SHT_NOBITS {
            return Vec::new();
        }
        self.bytes.read_up_to(section.offset, section.size.min(limit))
    }

    /// Where in the file a virtual address lies: what the kernel calls a uprobe's offset.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.loaded(address).map(|(offset, _)| offset)
    }

    /// Executable parts: where in the file, where in memory before relocation, bytes.
    pub fn code_parts(&self) -> Vec<(u64, u64, u64)> {
        let is_code = |segment: &&Segment| segment.kind == PT_LOAD && segment.executable;
        let part = |segment: &Segment| (segment.offset, segment.address, segment.size);
        self.segments.iter().filter(is_code).map(part).collect()
    }

    /// File offset of an address, and how many bytes of its segment follow in the file.
    fn loaded(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD).find_map(|segment| {
            let inside = address.checked_sub(segment.address).filter(|inside| *inside < segment.size)?;
            Some((segment.offset.checked_add(inside)?, segment.size - inside))
        })
    }

    /// Whether code can stand at the address.
    pub fn is_executable(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| {
            segment.kind == PT_LOAD
                && segment.executable
                && address.checked_sub(segment.address).is_some_and(|inside| inside < segment.size)
        })
    }

    /// Up to `length` bytes that are loaded at an address.
    pub fn memory(&self, address: u64, length: u64) -> Vec<u8> {
        let Some((offset, left)) = self.loaded(address) else { return Vec::new() };
        self.bytes.read_up_to(offset, length.min(left))
    }

    /// All notes, of segments and of sections that are not loaded.
    pub fn notes(&self) -> Vec<Note> {
        let segments = self.segments.iter().filter(|segment| segment.kind == PT_NOTE);
        let segments = segments.map(|segment| (segment.offset, segment.size, segment.align));
        let sections =
            self.sections.iter().filter(|section| section.kind == SHT_NOTE && section.address == 0);
        let sections = sections.map(|section| (section.offset, section.size, section.align));
        // Without a loaded segment of notes those of sections are all there are: a file of debug information.
        let mut parts: Vec<_> = segments.chain(sections).collect();
        if parts.is_empty() {
            let sections = self.sections.iter().filter(|section| section.kind == SHT_NOTE);
            parts.extend(sections.map(|section| (section.offset, section.size, section.align)));
        }
        parts.sort_unstable();
        parts.dedup();
        let mut notes = Vec::new();
        for (offset, size, align) in parts {
            read_notes(&self.bytes.read_up_to(offset, size.min(MAX_NOTES)), align, &mut notes);
        }
        notes
    }

    /// What the linker wrote to tell this file from every other, in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        const NT_GNU_BUILD_ID: u32 = 3;
        let note =
            self.notes().into_iter().find(|note| note.kind == NT_GNU_BUILD_ID && note.name == b"GNU")?;
        (!note.description.is_empty())
            .then(|| note.description.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The name by which programs ask the loader for this library.
    pub fn soname(&self) -> Option<String> {
        let dynamic = self.segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
        let table = self.bytes.read_up_to(dynamic.offset, dynamic.size);
        let n_entries = (table.len() / size_of::<Dyn64<LE>>()).min(MAX_DYNAMIC);
        let (entries, _) = pod::slice_from_bytes::<Dyn64<LE>>(&table, n_entries).ok()?;
        let value = |tag| {
            let mut found = entries.iter().filter(|entry| entry.d_tag.get(LE) == tag);
            found.next().map(|entry| entry.d_val.get(LE))
        };
        let at = value(DT_SONAME)?;
        let strings = value(object::elf::DT_STRTAB)?;
        let name = self.memory(strings.checked_add(at)?, 256);
        Some(text_at(&name, 0)).filter(|name| !name.is_empty())
    }
}

impl Segment {
    fn of(header: &ProgramHeader64<LE>) -> Segment {
        Segment {
            kind: header.p_type.get(LE),
            executable: header.p_flags.get(LE) & PF_X != 0,
            offset: header.p_offset.get(LE),
            address: header.p_vaddr.get(LE),
            size: header.p_filesz.get(LE),
            align: header.p_align.get(LE),
        }
    }
}

/// Notes one behind the other: three words, a name, a description, each filled up to the alignment.
fn read_notes(data: &[u8], align: u64, notes: &mut Vec<Note>) {
    let align = if align == 8 { 8 } else { 4 };
    let word = |at: usize| {
        let bytes = data.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut at = 0;
    while let (Some(name_size), Some(size), Some(kind)) = (word(at), word(at + 4), word(at + 8)) {
        let Some(name_end) = (at + 12).checked_add(name_size as usize) else { return };
        let start = name_end.next_multiple_of(align);
        let Some(end) = start.checked_add(size as usize) else { return };
        let (Some(name), Some(description)) = (data.get(at + 12..name_end), data.get(start..end)) else {
            return;
        };
        let name = name.strip_suffix(b"\0").unwrap_or(name).to_vec();
        notes.push(Note { name, kind, description: description.to_vec() });
        at = end.next_multiple_of(align);
    }
}

/// The text up to the next zero in a table of strings.
pub(super) fn text_at(strings: &[u8], at: usize) -> String {
    let rest = strings.get(at..).unwrap_or_default();
    let rest = &rest[..rest.len().min(MAX_NAME)];
    let end = memchr::memchr(0, rest).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::uprobe::{
        bytes::Bytes, code::Registers, debug_files, go, placement::Function, symbols::Symbols, usdt,
    };

    /// A real file to damage: the smallest of these that is here.
    fn real() -> &'static Vec<u8> {
        static FILE: OnceLock<Vec<u8>> = OnceLock::new();
        FILE.get_or_init(|| {
            let names =
                ["/usr/lib/x86_64-linux-gnu/libdl.so.2", "/lib64/ld-linux-x86-64.so.2", "/proc/self/exe"];
            names.iter().find_map(|name| std::fs::read(name).ok()).unwrap()
        })
    }

    /// Everything that reads a file, on these bytes.
    fn read_all(bytes: &dyn Bytes) {
        let Ok(elf) = Elf::parse(bytes) else { return };
        elf.notes();
        elf.soname();
        usdt::marks(&elf);
        go::version(&elf);
        if let Some(functions) = go::Functions::of(&elf) {
            functions.named("main.main");
        }
        debug_files::find(&elf, std::path::Path::new("/nonexistent"), std::path::Path::new("/usr/lib"));
        let symbols = Symbols::of(&elf);
        symbols.demangled("*", "");
        for symbol in symbols.matching("*").into_iter().take(50) {
            let function = Function::read(&elf, symbol.address, symbol.size);
            function.entry(&elf, Registers::all(&Registers::C));
            function.inner(&elf);
            function.returns(&elf);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn damaged_files_are_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
            heads in prop::collection::vec((0_usize..0x400, any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            is_cut: bool,
        ) {
            let mut bytes = real().clone();
            let length = bytes.len();
            for (at, byte) in changes {
                bytes[at.index(length)] = byte;
            }
            for (at, byte) in heads {
                bytes[at.min(length - 1)] = byte;
            }
            if is_cut {
                bytes.truncate(cut.index(length));
            }
            read_all(&bytes);
        }

        /// The tables of sections, where sizes and offsets stand.
        #[test]
        fn damaged_tables_are_survived(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..60)) {
            let mut bytes = real().clone();
            let table = u64::from_le_bytes(bytes[0x28..0x30].try_into().unwrap()) as usize;
            let length = bytes.len() - table.min(bytes.len());
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(table + usize::from(at) % length.max(1)) {
                    *place = byte;
                }
            }
            read_all(&bytes);
        }
    }

    #[test]
    fn other_files_are_told_from_programs_for_this_machine() {
        let error = |bytes: &[u8]| Elf::parse(&bytes.to_vec() as &dyn Bytes).unwrap_err();
        assert_eq!(error(b"#!/bin/sh\n"), ElfError::NotElf);
        assert_eq!(error(&[0; 64]), ElfError::NotElf);
        let mut arm = real()[..64].to_vec();
        arm[0x12] = 183;
        assert_eq!(error(&arm), ElfError::OtherMachine);
        // Its table of segments is not there.
        assert_eq!(error(&real()[..64]), ElfError::Damaged);
    }
}

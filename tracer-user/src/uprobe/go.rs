//! Programs written in Go: the version that built them, and their functions by the table that their own stack traces need, which no
//! stripping removes.
//!
//! The table's layout is that of Go 1.18 to 1.26 (`runtime/symtab.go`, `type pcHeader`); of older programs only the version is known,
//! and those before 1.17 pass arguments on the stack anyway.

use object::{LittleEndian as LE, elf::PT_LOAD, elf::Rela64, elf::SHT_RELA, pod};

use super::{
    bytes::MAX_READ,
    elf::{Elf, MAX_NAME},
    symbols::{MAX_MATCHES, Symbol, Symbols, glob},
};

/// First bytes of a table: a mark by version, two zeroes, the smallest instruction's length, the size of a pointer.
const MAGIC_1_18: &[u8] = b"\xf0\xff\xff\xff\0\0\x01\x08";
const MAGIC_1_20: &[u8] = b"\xf1\xff\xff\xff\0\0\x01\x08";
/// Where in the header the address of the code stands.
const TEXT_START: usize = 24;
/// Bytes of its header.
const HEADER: usize = 72;
/// Functions of one program: Kubernetes' largest has some 200,000.
const MAX_FUNCTIONS: u64 = 4 << 20;

/// What Go's linker wrote about a program: its version, such as `go1.19.8`.
pub fn version(elf: &Elf<'_>) -> Option<String> {
    let section = elf.section(".go.buildinfo")?;
    let info = elf.data(section, 4096);
    let header = info.strip_prefix(b"\xff Go buildinf:")?;
    // The size of a pointer, then flags: bit 1 says that texts stand here, and not pointers to them.
    let flags = *header.get(1)?;
    let text = if flags & 2 != 0 {
        let (length, at) = varint(info.get(32..)?)?;
        info.get(32 + at..)?.get(..usize::try_from(length).ok()?)?.to_vec()
    } else {
        // A pointer to a pointer and a length.
        let string = elf.memory(word(&info, 16)?, 16);
        elf.memory(word(&string, 0)?, word(&string, 8)?.min(256))
    };
    let text = String::from_utf8(text).ok()?;
    (text.len() < 256 && text.starts_with("go") || text.starts_with("devel")).then_some(text)
}

/// Where in a goroutine (`runtime/runtime2.go`, `type g`) its state stands, or a word behind, in a program of this version: behind it stands its number. Go 1.17 to 1.22
/// have it here, 1.23 and 1.24 a word behind (`syscallbp` came), 1.26 here again (`gobuf.ret` went); what comes later is looked for here too, and not told where it is not found. `None`: older
/// ones keep no goroutine in a register.
pub fn goroutine_state(version: &str) -> Option<u32> {
    const STATE: u32 = 144;
    let minor = version.strip_prefix("go1.").map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let minor = minor.and_then(|n| version[4..4 + n].parse::<u32>().ok());
    minor.is_none_or(|minor| minor >= 17).then_some(STATE)
}

/// A program's table of functions.
#[derive(Debug)]
pub struct Functions {
    table: Vec<u8>,
    text_start: u64,
    n_functions: usize,
    names: usize,
    functions: usize,
}

impl Functions {
    /// Finds and checks the table; `None` where there is none of a known layout.
    pub fn of(elf: &Elf<'_>) -> Option<Functions> {
        let named = elf.sections.iter().find(|section| section.name.ends_with(".gopclntab"));
        let (address, table) = match named {
            Some(section) => (section.address, elf.data(section, MAX_READ as u64)),
            None => search(elf)?,
        };
        let mut functions = Functions::parse(table)?;
        functions.text_start = functions.start_of_code(elf, address)?;
        Some(functions)
    }

    /// Reads the header. The address of the code is what stands there.
    fn parse(table: Vec<u8>) -> Option<Functions> {
        if !table.starts_with(MAGIC_1_18) && !table.starts_with(MAGIC_1_20) || table.len() < HEADER {
            return None;
        }
        let offset = |at| usize::try_from(word(&table, at)?).ok().filter(|offset| *offset < table.len());
        let n_functions = word(&table, 8).filter(|n| (1..MAX_FUNCTIONS).contains(n))?;
        let (names, functions) = (offset(32)?, offset(64)?);
        let text_start = word(&table, TEXT_START)?;
        // As many as there is room for: each takes two numbers of four bytes.
        let n_functions = usize::try_from(n_functions).ok()?.min((table.len() - functions) / 8);
        Some(Functions { text_start, n_functions, names, functions, table })
    }

    /// Where the code begins that the table counts from. In a file that can be loaded anywhere the header's word is filled in by the
    /// loader; since Go 1.26 it is always zero.
    fn start_of_code(&self, elf: &Elf<'_>, table: u64) -> Option<u64> {
        let written = Some(self.text_start).filter(|start| *start != 0);
        written
            .or_else(|| relocation(elf, table.checked_add(TEXT_START as u64)?))
            .or_else(|| Symbols::of(elf).named("runtime.text").map(|symbol| symbol.address))
            .or_else(|| {
                // Linked by Go alone, the program begins at a function of this name.
                let (offset, _) = self.entry(self.position("_rt0_amd64_linux")?)?;
                elf.entry.checked_sub(u64::from(offset))
            })
            .or_else(|| module_text(elf, table))
            .filter(|start| elf.is_executable(*start))
    }

    /// The function of this name.
    pub fn named(&self, name: &str) -> Option<Symbol> {
        let at = self.position(name)?;
        let (offset, _) = self.entry(at)?;
        // The last entry is followed by one for the end.
        let end = self.number(self.functions + (at + 1) * 8)?;
        let address = self.text_start.checked_add(u64::from(offset))?;
        Some(Symbol { name: name.to_owned(), address, size: u64::from(end.saturating_sub(offset)) })
    }

    /// Functions whose name matches a pattern of `*` and `?`, by address.
    pub fn matching(&self, pattern: &str) -> Vec<Symbol> {
        let mut found = Vec::new();
        for at in 0..self.n_functions {
            let Some(name) = self.name(at).filter(|name| glob(pattern.as_bytes(), name)) else { continue };
            let Some((offset, _)) = self.entry(at) else { continue };
            let Some(end) = self.number(self.functions + (at + 1) * 8) else { continue };
            let Some(address) = self.text_start.checked_add(u64::from(offset)) else { continue };
            let name = String::from_utf8_lossy(name).into_owned();
            found.push(Symbol { name, address, size: u64::from(end.saturating_sub(offset)) });
            if found.len() == MAX_MATCHES {
                break;
            }
        }
        found
    }

    /// The function in whose code an address is.
    pub fn around(&self, address: u64) -> Option<Symbol> {
        let offset = u32::try_from(address.checked_sub(self.text_start)?).ok()?;
        // By address: the last that begins at or before it.
        let (mut low, mut high) = (0, self.n_functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.0 <= offset { low = middle + 1 } else { high = middle }
        }
        let at = low.checked_sub(1)?;
        let (start, end) = (self.entry(at)?.0, self.number(self.functions + (at + 1) * 8)?);
        let name = String::from_utf8_lossy(self.name(at)?).into_owned();
        let symbol = Symbol {
            name,
            address: self.text_start.checked_add(start.into())?,
            size: end.saturating_sub(start).into(),
        };
        (offset < end).then_some(symbol)
    }

    /// Shows all names.
    pub fn each_name(&self, mut look: impl FnMut(&str)) {
        for at in 0..self.n_functions {
            if let Some(Ok(name)) = self.name(at).map(std::str::from_utf8) {
                look(name);
            }
        }
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        let (_, data) = self.entry(at)?;
        let record = self.functions.checked_add(data as usize)?;
        let name = self.names.checked_add(self.number(record.checked_add(4)?)? as usize)?;
        let rest = self.table.get(name..)?;
        let rest = &rest[..rest.len().min(MAX_NAME)];
        Some(&rest[..memchr::memchr(0, rest).unwrap_or(rest.len())])
    }

    fn position(&self, name: &str) -> Option<usize> {
        (0..self.n_functions).find(|&at| self.has_name(at, name.as_bytes()))
    }

    fn has_name(&self, at: usize, name: &[u8]) -> bool {
        let found = || {
            let (_, data) = self.entry(at)?;
            // A function's record begins with its place in the code and its name's in the table of names.
            let record = self.functions.checked_add(data as usize)?;
            let name = self.names.checked_add(self.number(record.checked_add(4)?)? as usize)?;
            self.table.get(name..)
        };
        found().is_some_and(|text| text.starts_with(name) && text.get(name.len()) == Some(&0))
    }

    /// Where in the code a function begins, and where its record lies.
    fn entry(&self, at: usize) -> Option<(u32, u32)> {
        let place = self.functions + at * 8;
        Some((self.number(place)?, self.number(place + 4)?))
    }

    fn number(&self, at: usize) -> Option<u32> {
        let bytes = self.table.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// The table of a program without names of sections: by its first bytes, at any multiple of eight.
fn search(elf: &Elf<'_>) -> Option<(u64, Vec<u8>)> {
    for segment in elf.segments.iter().filter(|segment| segment.kind == PT_LOAD && !segment.executable) {
        let data = elf.bytes().read_up_to(segment.offset, segment.size);
        for magic in [MAGIC_1_20, MAGIC_1_18] {
            for at in memchr::memmem::find_iter(&data, magic).filter(|at| at % 8 == 0) {
                let table = data[at..].to_vec();
                if Functions::parse(table.clone()).is_some() {
                    return Some((segment.address.checked_add(at as u64)?, table));
                }
            }
        }
    }
    None
}

/// What the loader will write to an address, before relocation.
fn relocation(elf: &Elf<'_>, address: u64) -> Option<u64> {
    const R_X86_64_RELATIVE: u32 = 8;
    for section in elf.sections.iter().filter(|section| section.kind == SHT_RELA && section.address != 0) {
        let table = elf.data(section, MAX_READ as u64);
        let n = table.len() / size_of::<Rela64<LE>>();
        let Ok((entries, _)) = pod::slice_from_bytes::<Rela64<LE>>(&table, n) else { continue };
        let found = entries
            .iter()
            .find(|entry| entry.r_offset.get(LE) == address && entry.r_type(LE, false) == R_X86_64_RELATIVE);
        if let Some(found) = found {
            return u64::try_from(found.r_addend.get(LE)).ok();
        }
    }
    None
}

/// The beginning of the code by the runtime's own record of the program, which begins with a pointer to the table.
fn module_text(elf: &Elf<'_>, table: u64) -> Option<u64> {
    // A pointer, six slices of three words, findfunctab, minpc, maxpc, text.
    const TEXT: u64 = 22 * 8;
    let section = elf.section(".go.module").or_else(|| elf.section(".noptrdata"))?;
    let data = elf.data(section, MAX_READ as u64);
    let at = data.chunks_exact(8).position(|chunk| chunk == table.to_le_bytes());
    let written = at.and_then(|at| word(&data, at * 8 + TEXT as usize)).filter(|text| *text != 0);
    // Filled in by the loader, it is at the section's beginning where that is the record's own.
    written.or_else(|| relocation(elf, section.address.checked_add(TEXT)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A number of seven bits a byte, lowest first, and how many bytes it took.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table of two functions and the end, as the linker lays it out.
    fn table(magic: &[u8]) -> Vec<u8> {
        let mut table = magic.to_vec();
        let (names, functions) = (HEADER, HEADER + 32);
        for word in [2, 1, 0x401000, names as u64, 0, 0, 0, functions as u64] {
            table.extend_from_slice(&u64::to_le_bytes(word));
        }
        table.extend_from_slice(b"main.main\0crypto/tls.x\0");
        table.resize(functions, 0);
        // Each function: where it begins, where its record is; then the end.
        for number in [0_u32, 20, 0x40, 28, 0x90] {
            table.extend_from_slice(&number.to_le_bytes());
        }
        for number in [0_u32, 0, 0x40, 10] {
            table.extend_from_slice(&number.to_le_bytes());
        }
        table
    }

    #[test]
    fn functions_are_found_by_their_whole_name() {
        for magic in [MAGIC_1_18, MAGIC_1_20] {
            let functions = Functions::parse(table(magic)).unwrap();
            let found = functions.named("crypto/tls.x").unwrap();
            assert_eq!((found.address, found.size), (0x401040, 0x50));
            assert_eq!(functions.named("main.main").unwrap().size, 0x40);
            assert_eq!(functions.named("main"), None);
            assert_eq!(functions.named("main.main2"), None);
        }
        // Go 1.16's
        assert!(Functions::parse(table(b"\xfa\xff\xff\xff\0\0\x01\x08")).is_none());
    }

    #[test]
    fn of_old_versions_goroutines_are_not_known() {
        for (version, is_known) in [
            ("go1.16.15", false),
            ("go1.9", false),
            ("go1.17", true),
            ("go1.26.8 X:exp", true),
            ("go1.30rc1", true),
            ("devel go1.27-abc", true),
        ] {
            assert_eq!(goroutine_state(version).is_some(), is_known, "{version}");
        }
    }

    proptest! {
        #[test]
        fn any_table_is_survived(changes in prop::collection::vec((8_usize..160, any::<u8>()), 0..20), cut in 0_usize..170) {
            let mut bytes = table(MAGIC_1_20);
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            if let Some(functions) = Functions::parse(bytes) {
                functions.named("crypto/tls.x");
                functions.named("");
            }
        }

        #[test]
        fn any_number_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            varint(&bytes);
        }
    }
}

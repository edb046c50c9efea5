//! Functions of an executable by name: of `.symtab` where it was left, of `.dynsym` always; as written in the file, or as their
//! authors wrote them.

use std::fmt::{self, Write as _};

use object::{
    LittleEndian as LE,
    elf::{SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STT_FUNC, STT_GNU_IFUNC, STT_OBJECT, Sym64},
    pod,
};

use super::{
    bytes::MAX_READ,
    elf::{Elf, MAX_NAME},
};

/// Functions that one question may find; a program has some hundred thousand, and probes on thousands would stop it.
pub const MAX_MATCHES: usize = 4096;
/// Longest name that is demangled: Rust's and C++'s longest in a browser are some ten thousand bytes; longer ones match as they are.
const MAX_MANGLED: usize = 16 << 10;
/// Longest name that comes out: a few bytes of a hostile name can stand for gigabytes.
const MAX_DEMANGLED: usize = 64 << 10;

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name in the file, without a symbol version.
    pub name: String,
    /// Its address before relocation.
    pub address: u64,
    /// Its length; the way to the next function where the file does not say.
    pub size: u64,
}

/// The functions of a file.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Of each table one block; entries point into it.
    strings: Vec<Vec<u8>>,
    /// By address.
    entries: Vec<Entry>,
    /// Whether there is a table of local functions, which stripping removes.
    pub has_local: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    size: u64,
    table: u32,
    name: u32,
}

impl Symbols {
    /// All functions that the file defines.
    pub fn of(elf: &Elf<'_>) -> Symbols {
        let mut symbols = Symbols::default();
        symbols.add(elf);
        symbols
    }

    /// Adds the functions of another file about the same code: one of debug information.
    pub fn add(&mut self, elf: &Elf<'_>) {
        for section in elf.sections.iter().filter(|section| [SHT_SYMTAB, SHT_DYNSYM].contains(&section.kind))
        {
            let Some(strings) = elf.sections.get(section.link) else { continue };
            let table = elf.data(section, MAX_READ as u64);
            let n_symbols = table.len() / size_of::<Sym64<LE>>();
            let Ok((found, _)) = pod::slice_from_bytes::<Sym64<LE>>(&table, n_symbols) else { continue };
            let index = self.strings.len() as u32;
            let before = self.entries.len();
            self.entries.extend(found.iter().filter(|symbol| is_function(symbol)).map(|symbol| Entry {
                address: symbol.st_value.get(LE),
                size: symbol.st_size.get(LE),
                table: index,
                name: symbol.st_name.get(LE),
            }));
            self.has_local |= section.kind == SHT_SYMTAB && self.entries.len() > before;
            self.strings.push(elf.data(strings, MAX_READ as u64));
        }
        self.entries.sort_by_key(|entry| entry.address);
    }

    /// The function of this name.
    pub fn named(&self, name: &str) -> Option<Symbol> {
        let [found] = self.find([name]);
        found
    }

    /// Several functions at once, in one pass.
    pub fn find<const N: usize>(&self, names: [&str; N]) -> [Option<Symbol>; N] {
        let mut places = [None; N];
        for (at, entry) in self.entries.iter().enumerate() {
            let name = self.name(entry);
            if let Some(which) = names.iter().position(|wanted| wanted.as_bytes() == name) {
                places[which].get_or_insert(at);
            }
        }
        places.map(|at| at.map(|at| self.symbol(at)))
    }

    /// Functions whose name in the file matches a pattern of `*` and `?`, by address, each address once.
    pub fn matching(&self, pattern: &str) -> Vec<Symbol> {
        self.filter(|name| glob(pattern.as_bytes(), name))
    }

    /// Functions whose name as its author wrote it matches a pattern of `*` and `?`: Rust without hashes, C++ with parameters.
    /// `part` stands in the mangled name too and spares demangling the others.
    pub fn demangled(&self, pattern: &str, part: &str) -> Vec<Symbol> {
        let part = memchr::memmem::Finder::new(part.as_bytes());
        self.filter(|name| {
            part.find(name).is_some()
                && std::str::from_utf8(name).is_ok_and(|name| {
                    demangle(name).is_some_and(|name| glob(pattern.as_bytes(), name.as_bytes()))
                })
        })
    }

    fn filter(&self, mut is_wanted: impl FnMut(&[u8]) -> bool) -> Vec<Symbol> {
        let mut found: Vec<Symbol> = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let is_known = found.last().is_some_and(|last| last.address == entry.address);
            if !is_known && is_wanted(self.name(entry)) {
                found.push(self.symbol(at));
                if found.len() == MAX_MATCHES {
                    break;
                }
            }
        }
        found
    }

    /// The function that begins at an address.
    pub fn at(&self, address: u64) -> Option<Symbol> {
        let at = self.entries.partition_point(|entry| entry.address < address);
        self.entries.get(at).filter(|entry| entry.address == address).map(|_| self.symbol(at))
    }

    /// The last function that begins before an address.
    pub fn before(&self, address: u64) -> Option<Symbol> {
        let at = self.entries.partition_point(|entry| entry.address < address);
        at.checked_sub(1).map(|at| self.symbol(at))
    }

    /// Shows all names, as they are in the file.
    pub fn each_name(&self, mut look: impl FnMut(&str)) {
        for entry in &self.entries {
            if let Ok(name) = std::str::from_utf8(self.name(entry)) {
                look(name);
            }
        }
    }

    /// Where the next function behind an address begins.
    pub fn next_after(&self, address: u64) -> Option<u64> {
        let at = self.entries.partition_point(|entry| entry.address <= address);
        self.entries.get(at).map(|entry| entry.address)
    }

    fn symbol(&self, at: usize) -> Symbol {
        let entry = &self.entries[at];
        let size = match entry.size {
            0 => self.next_after(entry.address).map_or(0, |next| next - entry.address),
            size => size,
        };
        let name = String::from_utf8_lossy(self.name(entry)).into_owned();
        Symbol { name, address: entry.address, size }
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let strings = &self.strings[entry.table as usize];
        let rest = strings.get(entry.name as usize..).unwrap_or_default();
        let rest = &rest[..rest.len().min(MAX_NAME)];
        // `.symtab` of a shared library may write `name@@VERSION`.
        let end = memchr::memchr2(0, b'@', rest).unwrap_or(rest.len());
        &rest[..end]
    }
}

/// Where variables are that a file exports, before relocation.
pub fn exported<const N: usize>(elf: &Elf<'_>, names: [&str; N]) -> [Option<u64>; N] {
    let mut places = [None; N];
    for section in elf.sections.iter().filter(|section| section.kind == SHT_DYNSYM) {
        let Some(strings) = elf.sections.get(section.link) else { continue };
        let table = elf.data(section, MAX_READ as u64);
        let strings = elf.data(strings, MAX_READ as u64);
        let n_symbols = table.len() / size_of::<Sym64<LE>>();
        let Ok((found, _)) = pod::slice_from_bytes::<Sym64<LE>>(&table, n_symbols) else { continue };
        let is_there = |symbol: &&Sym64<LE>| {
            symbol.st_type() == STT_OBJECT
                && symbol.st_shndx.get(LE) != SHN_UNDEF
                && symbol.st_value.get(LE) != 0
        };
        for symbol in found.iter().filter(is_there) {
            let rest = strings.get(symbol.st_name.get(LE) as usize..).unwrap_or_default();
            let which = names.iter().position(|name| {
                rest.strip_prefix(name.as_bytes())
                    .is_some_and(|behind| behind.first().is_none_or(|byte| *byte == 0))
            });
            if let Some(which) = which {
                places[which].get_or_insert(symbol.st_value.get(LE));
            }
        }
    }
    places
}

fn is_function(symbol: &Sym64<LE>) -> bool {
    [STT_FUNC, STT_GNU_IFUNC].contains(&symbol.st_type())
        && symbol.st_shndx.get(LE) != SHN_UNDEF
        && symbol.st_value.get(LE) != 0
}

/// The name as its author wrote it; `None` if it is not one of Rust or C++.
pub fn demangle(name: &str) -> Option<String> {
    if name.len() > MAX_MANGLED {
        return None;
    }
    let mut out = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        write!(out, "{rust:#}").ok()?;
        return Some(out.0);
    }
    if !name.starts_with("_Z") {
        return None;
    }
    let symbol = cpp_demangle::Symbol::new(name).ok()?;
    symbol.structured_demangle(&mut out, &cpp_demangle::DemangleOptions::default()).ok()?;
    Some(out.0)
}

/// Text that refuses to grow beyond [`MAX_DEMANGLED`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_DEMANGLED {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Whether a pattern of `*` (any bytes), `?` (one byte) and plain bytes describes the whole text. Costs at most the product of both lengths.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit here.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = back else { return false };
                back = Some((star, from + 1));
                p = star;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_describe_whole_names() {
        for (pattern, text, fits) in [
            ("SSL_read", "SSL_read", true),
            ("SSL_read", "SSL_read_ex", false),
            ("SSL_*", "SSL_read_ex", true),
            ("*_ex", "SSL_read_ex", true),
            ("SSL_????", "SSL_read", true),
            ("*a*b*c", "xxaxxbxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn names_read_as_their_authors_wrote_them() {
        assert_eq!(
            demangle("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE").as_deref(),
            Some("core::fmt::Formatter::pad")
        );
        assert_eq!(demangle("_RNvCs1234_7mycrate3foo").as_deref(), Some("mycrate::foo"));
        assert_eq!(demangle("_ZN4bssl9SSL_STATE4readEi").as_deref(), Some("bssl::SSL_STATE::read(int)"));
        assert_eq!(demangle("SSL_read"), None);
        assert_eq!(demangle(&format!("_Z{}", "N".repeat(MAX_MANGLED))), None);
    }
}

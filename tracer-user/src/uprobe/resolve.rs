//! From addresses in a file's code to functions.

use std::{fs::File, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    debug_files,
    elf::{Elf, ElfError},
    go,
    symbols::{Symbols, demangle},
    unwind::{Caller, Tables},
};

/// A file of code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeFile {
    /// Its path as the process that ran it saw it.
    pub path: String,
    /// What its linker wrote to tell it from every other, hexadecimal.
    pub build_id: Option<String>,
}

/// What is known of a file's code.
#[derive(Debug)]
pub struct Code {
    /// Which file it is.
    pub file: Arc<CodeFile>,
    /// The name of the file, without its folder.
    name: Arc<str>,
    /// Executable parts: where in the file, where in memory before relocation, bytes.
    parts: Vec<(u64, u64, u64)>,
    symbols: Symbols,
    go: Option<go::Functions>,
    tables: Option<Tables>,
}

impl Code {
    /// Reads it. `path`: as the process that runs it sees it.
    pub fn read(file: &File, path: &Path) -> Result<Code, ElfError> {
        let elf = Elf::parse(file)?;
        let mut symbols = Symbols::of(&elf);
        if !symbols.has_local
            && let Some(file) = debug_files::find(&elf, Path::new("/"), path.parent().unwrap_or(path))
            && let Ok(debug) = Elf::parse(&file)
        {
            symbols.add(&debug);
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Ok(Code {
            file: Arc::new(CodeFile { path: path.to_string_lossy().into_owned(), build_id: elf.build_id() }),
            name: name.into(),
            parts: elf.code_parts(),
            symbols,
            go: go::version(&elf).and_then(|_| go::Functions::of(&elf)),
            tables: Tables::of(&elf),
        })
    }

    /// Where code at a place of the file is loaded, before relocation.
    pub fn address(&self, offset: u64) -> Option<u64> {
        self.parts.iter().find_map(|(from, address, size)| {
            let inside = offset.checked_sub(*from).filter(|inside| inside < size)?;
            address.checked_add(inside)
        })
    }

    /// Where a function begins.
    #[cfg(test)]
    pub(super) fn named(&self, name: &str) -> Option<u64> {
        self.symbols.named(name).map(|symbol| symbol.address)
    }

    /// `function+0x12 (file)`, or `+0x1234 (file)` where no function is known. `inside`: an address in the function; a call that never returns may be its last
    /// instruction, so that the address behind is another's.
    pub fn text(&self, address: u64, inside: u64) -> String {
        let file = &self.name;
        let symbol = self.go.as_ref().and_then(|go| go.around(inside)).or_else(|| {
            let before = self.symbols.before(inside.checked_add(1)?)?;
            (inside - before.address < before.size).then_some(before)
        });
        match symbol {
            Some(symbol) => {
                let shown = demangle(&symbol.name).unwrap_or(symbol.name);
                format!("{shown}+{:#x} ({file})", address.wrapping_sub(symbol.address))
            }
            None => format!("+{address:#x} ({file})"),
        }
    }

    /// How code at an address finds its caller.
    pub fn caller(&self, address: u64) -> Caller {
        // Go keeps frame pointers, and has tables of its own.
        if self.go.as_ref().is_some_and(|go| go.around(address).is_some()) {
            return Caller::FramePointer;
        }
        self.tables.as_ref().map_or(Caller::Unknown, |tables| tables.caller(address))
    }
}

//! From what was asked for to places in a file.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use iced_x86::Mnemonic;

use super::{End, Found, FunctionError, Language, Spec, Type, What};
use crate::uprobe::{
    bytes::MAX_READ,
    code::{Instruction, Next, Registers, Step},
    debug_files,
    elf::Elf,
    go,
    placement::{Function as Code, Site},
    process::{Process, open_regular},
    symbols::{MAX_MATCHES, Symbol, Symbols, demangle, glob},
    usdt,
};

/// Registers of arguments by calling convention, in its order: System V, then Go.
const C: [u16; 6] = [1 << 7, 1 << 6, 1 << 2, 1 << 1, 1 << 8, 1 << 9];
const GO: [u16; 8] = [1, 1 << 3, 1 << 1, 1 << 7, 1 << 6, 1 << 8, 1 << 9, 1 << 10];

/// Whether many programs run a file: it has a name by which programs ask the loader for it.
pub fn is_shared(elf: &Elf<'_>) -> bool {
    elf.soname().is_some()
}

/// Finds what is asked for, at most `limit` functions. `pids`: processes in whose files a bare name is looked for, and whose own paths may be
/// meant. `may_use_return_probes`: this kernel's do no harm.
pub fn find(
    spec: &Spec,
    pids: &[u32],
    limit: usize,
    may_use_return_probes: bool,
) -> Result<Vec<Found>, FunctionError> {
    let (path, file) = open(&spec.binary, pids)?;
    let shown = crate::text::screen_text(&spec.binary).into_owned();
    let elf = Elf::parse(&file).map_err(|error| {
        let hint =
            "name a program or library for x86-64; what an interpreter runs has no functions of its own";
        FunctionError::new(format!("{shown}: {error}"), hint)
    })?;
    // Exceptions of its callers may pass through a library that knows nothing of them.
    let may_throw = match pids {
        [] => is_shared(&elf),
        pids => pids.iter().any(|pid| may_throw(*pid)),
    };
    let may_use_return_probes = may_use_return_probes && !may_throw;
    let finder = Finder { spec, elf: &elf, path, shown, limit, may_use_return_probes };
    match &spec.what {
        What::Marks(provider, name) => finder.marks(provider, name),
        What::Functions(pattern) => finder.functions(pattern),
        What::Behind(name, offset) => finder.behind(name, *offset),
        What::Address(address) => finder.address(*address),
    }
}

/// Opens the file: a path here or below the root of a process; a bare name among the files of processes, or where programs are looked for.
fn open(binary: &str, pids: &[u32]) -> Result<(PathBuf, File), FunctionError> {
    let shown = crate::text::screen_text(binary);
    let path = Path::new(binary);
    if binary.contains('/') {
        let refused = match open_regular(path) {
            Ok(file) => return Ok((path.to_owned(), file)),
            Err(error) => error,
        };
        for pid in pids {
            let below =
                PathBuf::from(format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path));
            if let Ok(file) = open_regular(&below) {
                return Ok((below, file));
            }
        }
        let hint = match refused.kind() {
            std::io::ErrorKind::NotFound => {
                "check the path; in a container's files it is found with --pid of one of its processes"
            }
            _ => "it must be a regular file that txray may read",
        };
        return Err(FunctionError::new(format!("{shown}: {refused}"), hint));
    }
    for pid in pids {
        let Ok(process) = Process::read(Path::new("/proc"), *pid) else { continue };
        let is_named = |path: &Path| path.file_name().is_some_and(|name| name == binary);
        let mapped = process.files.iter().find(|mapped| is_named(Path::new(&mapped.path)));
        if let Some(opened) = mapped.and_then(|mapped| process.open(mapped).ok()) {
            // By its own path where that is the same file here: the process may end.
            let own = mapped.map(|mapped| PathBuf::from(&mapped.path)).unwrap_or_default();
            return match open_regular(&own) {
                Ok(file) if is_same(&file, &opened.file) => Ok((own, file)),
                _ => Ok((opened.path, opened.file)),
            };
        }
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&folders) {
        let path = folder.join(binary);
        if let Ok(file) = open_regular(&path) {
            return Ok((path, file));
        }
    }
    let hint = "write the path of the file; a bare name is looked for in PATH and, with --pid, in the files of those processes";
    Err(FunctionError::new(format!("there is no file {shown}"), hint))
}

/// Whether code that a process has mapped may throw. The C library has tables for unwinding of its own, for threads that are cancelled.
fn may_throw(pid: u32) -> bool {
    const C_LIBRARY: [&str; 3] = ["libc.so.", "libc-2.", "ld-linux-"];
    let Ok(process) = Process::read(Path::new("/proc"), pid) else { return true };
    process.files.iter().any(|mapped| {
        let name = Path::new(&mapped.path).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let is_known = C_LIBRARY.iter().any(|start| name.starts_with(start));
        !is_known
            && process
                .open(mapped)
                .is_ok_and(|opened| Elf::parse(&opened.file).is_ok_and(|elf| has_tables(&elf)))
    })
}

/// Whether a file says what to do when an exception passes.
fn has_tables(elf: &Elf<'_>) -> bool {
    elf.sections.is_empty() || elf.section(".gcc_except_table").is_some()
}

fn is_same(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |file: &File| file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    id(one).is_some() && id(one) == id(other)
}

struct Finder<'a> {
    spec: &'a Spec,
    elf: &'a Elf<'a>,
    path: PathBuf,
    shown: String,
    limit: usize,
    may_use_return_probes: bool,
}

/// A function with a name to show.
struct Named {
    symbol: Symbol,
    shown: String,
    language: Language,
}

impl Finder<'_> {
    /// The functions of the file, and those that Go's own table names.
    fn tables(&self) -> (Symbols, Option<go::Functions>) {
        let mut symbols = Symbols::of(self.elf);
        if !symbols.has_local {
            let folder = self.path.parent().unwrap_or(Path::new("/"));
            if let Some(file) = debug_files::find(self.elf, Path::new("/"), folder)
                && let Ok(debug) = Elf::parse(&file)
            {
                symbols.add(&debug);
            }
        }
        let go = go::version(self.elf).and_then(|_| go::Functions::of(self.elf));
        (symbols, go)
    }

    fn functions(&self, pattern: &str) -> Result<Vec<Found>, FunctionError> {
        let (symbols, go) = self.tables();
        let named = self.named(pattern, &symbols, go.as_ref())?;
        let is_glob = pattern.contains(['*', '?']);
        let mut found = Vec::new();
        let mut refused = None;
        for one in &named {
            match self.function(one, &symbols) {
                Ok(function) => found.push(function),
                // Of many, those that can be probed.
                Err(error) if is_glob => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// Functions whose name fits, by address.
    fn named(
        &self,
        pattern: &str,
        symbols: &Symbols,
        go: Option<&go::Functions>,
    ) -> Result<Vec<Named>, FunctionError> {
        let mut by_address: BTreeMap<u64, Named> = BTreeMap::new();
        let from_go = go.map(|go| go.matching(pattern)).unwrap_or_default();
        for symbol in from_go {
            let shown = symbol.name.clone();
            by_address.insert(symbol.address, Named { symbol, shown, language: Language::Go });
        }
        let part = longest_word(pattern);
        // With parameters, and without: their list stands behind the name.
        let with_parameters = format!("{pattern}(*");
        let raw = symbols.matching(pattern).into_iter();
        let demangled =
            symbols.demangled(pattern, part).into_iter().chain(symbols.demangled(&with_parameters, part));
        for symbol in raw.chain(demangled) {
            // Parts of functions that compilers moved away.
            let is_part = symbol.name.contains(".cold") || symbol.name.ends_with(".constprop.0.cold");
            if is_part || by_address.contains_key(&symbol.address) || !self.elf.is_executable(symbol.address)
            {
                continue;
            }
            let language = language_of(&symbol.name, go.is_some());
            let shown = demangle(&symbol.name).unwrap_or_else(|| symbol.name.clone());
            by_address.insert(symbol.address, Named { symbol, shown, language });
        }
        if by_address.len() > self.limit {
            let n = by_address.len();
            let more = if n >= MAX_MATCHES { " or more" } else { "" };
            return Err(FunctionError::new(
                format!(
                    "{}:{pattern} fits {n}{more} functions, and a run takes {} at most",
                    self.shown, self.limit
                ),
                "write more of the name",
            ));
        }
        if by_address.is_empty() {
            return Err(self.no_such(pattern, symbols, go));
        }
        Ok(by_address.into_values().collect())
    }

    fn no_such(&self, pattern: &str, symbols: &Symbols, go: Option<&go::Functions>) -> FunctionError {
        let what = format!("{} has no function {}", self.shown, crate::text::screen_text(pattern));
        let near = near(pattern, symbols, go);
        if !near.is_empty() {
            return FunctionError::new(what, format!("there is {}", near.join(", ")));
        }
        if !symbols.has_local && go.is_none() {
            return FunctionError::new(
                format!("{what} among those that it exports: the others were stripped from it"),
                "install its debug symbols (a package -dbgsym), name a build that was not stripped, or give an address: BINARY:0xADDR",
            );
        }
        FunctionError::new(
            what,
            "names are those of `nm -C BINARY`; a function that was inlined wherever it is called has no code of its own",
        )
    }

    fn function(&self, named: &Named, symbols: &Symbols) -> Result<Found, FunctionError> {
        let Named { symbol, shown, language } = named;
        let code = Code::read(self.elf, symbol.address, symbol.size);
        let kept = self.kept(*language)?;
        let refused = |why: &str| {
            FunctionError::new(
                format!("{}:{shown} cannot be probed: {why}", self.shown),
                "probe what calls it, or what it calls",
            )
        };
        let entry = code.entry(self.elf, kept).ok_or_else(|| {
            refused(
                "it has no instruction at which its arguments are still there that the kernel lets be probed",
            )
        })?;
        if !entry.once && *language != Language::Go {
            return Err(refused(
                "its own loop leads back to its beginning, so that one call would be seen as many",
            ));
        }
        let is_at_returns = *language == Language::Go || !self.may_use_return_probes || has_tables(self.elf);
        let end = if is_at_returns {
            self.ends(symbol, &code, symbols).ok_or_else(|| {
                refused("the kernel does not let an instruction be probed at which it returns")
            })?
        } else {
            End::ReturnProbe
        };
        Ok(Found {
            path: self.path.clone(),
            is_shared: is_shared(self.elf),
            name: shown.clone(),
            place: format!("{}:{}", self.spec.binary, symbol.name),
            language: *language,
            entry,
            end,
            arguments: self.spec.arguments.clone(),
            returned: self.spec.returned,
            mark: None,
        })
    }

    /// Registers that a probe must see unchanged: of the arguments asked for, and the stack pointer.
    fn kept(&self, language: Language) -> Result<Registers, FunctionError> {
        let all: &[u16] = if language == Language::Go { &GO } else { &C };
        let n = self.spec.arguments.iter().map(|kind| n_registers(*kind, language)).sum::<usize>();
        if n > all.len() {
            return Err(FunctionError::new(
                format!(
                    "the arguments of {} take {n} registers, and {} are passed in some",
                    self.spec.text,
                    all.len()
                ),
                "ask for the first ones only: those behind are on the stack",
            ));
        }
        Ok(Registers(all[..n].iter().fold(Registers::STACK.0, |all, one| all | one)))
    }

    /// Where a function returns, and where it jumps to another: in its own code, and in the part that the compiler moved away.
    fn ends(&self, symbol: &Symbol, code: &Code, symbols: &Symbols) -> Option<End> {
        let cold = symbols.matching(&format!("{}.cold*", symbol.name));
        let mut ranges: Vec<(u64, u64)> = vec![(symbol.address, symbol.size)];
        ranges.extend(cold.iter().map(|part| (part.address, part.size)));
        let is_inside = |target: u64| ranges.iter().any(|(at, size)| target.wrapping_sub(*at) < *size);
        let parts: Vec<Code> =
            cold.iter().map(|part| Code::read(self.elf, part.address, part.size)).collect();
        let instructions =
            || code.instructions.iter().chain(parts.iter().flat_map(|part| &part.instructions));
        let moves_stack =
            |one: &Instruction| one.writes.overlaps(Registers::STACK) && matches!(one.next, Next::Behind);
        let has_frame = instructions().any(moves_stack);
        let (mut returns, mut tails, mut indirect) = (Vec::new(), Vec::new(), Vec::new());
        for one in instructions() {
            match one.next {
                Next::Return => returns.push(self.site(symbol, one)?),
                Next::Jump(target) if !is_inside(target) => tails.push(self.site(symbol, one)?),
                Next::Unknown if one.mnemonic == Mnemonic::Jmp => indirect.extend(self.site(symbol, one)),
                _ => {}
            }
        }
        // Through a register or memory: another function, or a branch of its own, which the frame tells apart where there is one.
        if has_frame || (returns.is_empty() && tails.is_empty()) {
            tails.append(&mut indirect);
        }
        Some(End::Places { returns, tails })
    }

    /// `None`: the kernel refuses a probe there.
    fn site(&self, symbol: &Symbol, one: &Instruction) -> Option<Site> {
        (one.step != Step::Refused).then_some(())?;
        Some(Site {
            file_offset: self.elf.file_offset(one.address)?,
            into: one.address.wrapping_sub(symbol.address),
            instruction: one.name(),
            step: one.step,
            once: true,
        })
    }

    fn behind(&self, name: &str, offset: u64) -> Result<Vec<Found>, FunctionError> {
        let (symbols, go) = self.tables();
        let named = self.named(name, &symbols, go.as_ref())?;
        let [one] = &named[..] else {
            return Err(FunctionError::new(
                format!("{}:{name} fits {} functions, and a place is in one", self.shown, named.len()),
                "write the whole name",
            ));
        };
        self.place(&one.symbol, &one.shown, one.language, offset).map(|found| vec![found])
    }

    /// A place in a function, where an instruction begins.
    fn place(
        &self,
        symbol: &Symbol,
        shown: &str,
        language: Language,
        offset: u64,
    ) -> Result<Found, FunctionError> {
        let code = Code::read(self.elf, symbol.address, symbol.size);
        let wanted = symbol.address.wrapping_add(offset);
        let at = code.instructions.partition_point(|one| one.address < wanted);
        let near = |one: &Instruction| format!("+{:#x}", one.address.wrapping_sub(symbol.address));
        let Some(one) = code.instructions.get(at).filter(|one| one.address == wanted) else {
            let around: Vec<String> = [at.checked_sub(1), Some(at)]
                .into_iter()
                .flatten()
                .filter_map(|at| code.instructions.get(at))
                .map(near)
                .collect();
            let what = format!("no instruction begins at {shown}+{offset:#x} in {}", self.shown);
            return Err(FunctionError::new(
                what,
                format!("around it they begin at {}", around.join(" and ")),
            ));
        };
        let entry = self.site(symbol, one).ok_or_else(|| {
            let what = format!("the kernel lets no probe be set on {} at {shown}+{offset:#x}", one.name());
            FunctionError::new(what, "take the instruction before or behind it")
        })?;
        Ok(Found {
            path: self.path.clone(),
            is_shared: is_shared(self.elf),
            name: format!("{shown}+{offset:#x}"),
            place: format!("{}:{}+{offset:#x}", self.spec.binary, symbol.name),
            language,
            entry,
            end: End::None,
            arguments: self.spec.arguments.clone(),
            returned: None,
            mark: None,
        })
    }

    fn address(&self, address: u64) -> Result<Vec<Found>, FunctionError> {
        if !self.elf.is_executable(address) {
            return Err(FunctionError::new(
                format!("{address:#x} is no address of code in {}", self.shown),
                "addresses are those of `nm BINARY`, not those of a running process",
            ));
        }
        let (symbols, go) = self.tables();
        let named = |symbol: Symbol| {
            let shown = demangle(&symbol.name).unwrap_or_else(|| symbol.name.clone());
            let language = language_of(&symbol.name, go.is_some());
            Named { symbol, shown, language }
        };
        if let Some(symbol) = symbols.at(address) {
            return self.function(&named(symbol), &symbols).map(|found| vec![found]);
        }
        let around = symbols.before(address).filter(|symbol| address - symbol.address < symbol.size);
        if let Some(symbol) = around {
            let offset = address - symbol.address;
            let one = named(symbol);
            return self.place(&one.symbol, &one.shown, one.language, offset).map(|found| vec![found]);
        }
        let starts = unwind_starts(self.elf);
        let Ok(at) = starts.binary_search(&address) else {
            return Err(FunctionError::new(
                format!("nothing tells that a function begins at {address:#x} in {}", self.shown),
                "a return probe in the middle of one would end the program; its tables for unwinding (.eh_frame_hdr) name where functions begin",
            ));
        };
        let size = starts.get(at + 1).map_or(64 << 10, |next| next - address);
        let symbol = Symbol { name: format!("{address:#x}"), address, size };
        self.function(&named(symbol), &symbols).map(|found| vec![found])
    }

    fn marks(&self, provider: &str, name: &str) -> Result<Vec<Found>, FunctionError> {
        let marks = usdt::marks(self.elf);
        let fits = |mark: &&usdt::Mark| {
            glob(provider.as_bytes(), mark.provider.as_bytes()) && glob(name.as_bytes(), mark.name.as_bytes())
        };
        let found: Vec<&usdt::Mark> = marks.iter().filter(fits).collect();
        if found.is_empty() {
            let what = format!("{} has no mark {provider}:{name}", self.shown);
            let mut names: Vec<String> =
                marks.iter().map(|mark| format!("{}:{}", mark.provider, mark.name)).collect();
            names.sort_unstable();
            names.dedup();
            let hint = match names.len() {
                0 => "it has none at all: its build left them out".to_owned(),
                1..=8 => format!("it has {}", names.join(", ")),
                n => format!("it has {n}, among them {}", names[..8].join(", ")),
            };
            return Err(FunctionError::new(what, hint));
        }
        if found.len() > self.limit {
            let what = format!(
                "{}:usdt:{provider}:{name} is at {} places, and a run takes {} at most",
                self.shown,
                found.len(),
                self.limit
            );
            return Err(FunctionError::new(what, "write more of the name"));
        }
        let language = if go::version(self.elf).is_some() { Language::Go } else { Language::C };
        let found = found.into_iter().map(|mark| Found {
            path: self.path.clone(),
            is_shared: is_shared(self.elf),
            name: format!("{}:{}", mark.provider, mark.name),
            place: format!("{}:usdt:{}:{}", self.spec.binary, mark.provider, mark.name),
            language: if language == Language::Go { Language::C } else { language },
            entry: Site {
                file_offset: mark.file_offset,
                into: 0,
                instruction: "nop".to_owned(),
                step: Step::Emulated,
                once: true,
            },
            end: End::None,
            arguments: self.spec.arguments.clone(),
            returned: None,
            mark: Some(mark.clone()),
        });
        Ok(found.collect())
    }
}

/// Registers that a value takes.
pub fn n_registers(kind: Type, language: Language) -> usize {
    if kind == Type::Text && language != Language::C { 2 } else { 1 }
}

fn language_of(name: &str, is_go: bool) -> Language {
    if rustc_demangle::try_demangle(name).is_ok() {
        Language::Rust
    } else if is_go && (name.contains('.') || name.contains('/')) {
        Language::Go
    } else {
        Language::C
    }
}

/// The longest run of letters and digits of a pattern: it stands in mangled names too.
fn longest_word(pattern: &str) -> &str {
    let words = pattern.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.max_by_key(|word| word.len()).unwrap_or_default()
}

/// Names that may have been meant, the nearest first.
fn near(pattern: &str, symbols: &Symbols, go: Option<&go::Functions>) -> Vec<String> {
    /// Names that are shown.
    const SHOWN: usize = 3;
    let wanted = pattern.rsplit("::").next().unwrap_or(pattern).trim_matches(['*', '?']).to_lowercase();
    if wanted.len() < 2 {
        return Vec::new();
    }
    let mut best: Vec<(usize, String)> = Vec::new();
    let mut look = |name: &str| {
        if name.len() > 256 {
            return;
        }
        let shown = demangle(name).unwrap_or_else(|| name.to_owned());
        let head = shown.split('(').next().unwrap_or(&shown);
        let own = head.rsplit("::").next().unwrap_or(head).to_lowercase();
        let far = if own.contains(&wanted) { own.len() - wanted.len() } else { 4 * distance(&own, &wanted) };
        let bound = 4 * (wanted.len() / 3).clamp(1, 3);
        let contains = own.contains(&wanted) && wanted.len() >= 3;
        if (far <= bound || contains) && !best.iter().any(|(_, other)| *other == shown) {
            let at = best.partition_point(|(other, _)| *other <= far);
            if at < SHOWN {
                best.insert(at, (far, shown));
                best.truncate(SHOWN);
            }
        }
    };
    symbols.each_name(&mut look);
    if let Some(go) = go {
        go.each_name(&mut look);
    }
    best.into_iter().map(|(_, name)| name).collect()
}

/// How many letters have to be changed, added or left out; more than four are not told apart.
fn distance(a: &str, b: &str) -> usize {
    const FAR: usize = 5;
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) >= FAR || a.len() > 64 {
        return FAR;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()].min(FAR)
}

/// Where functions begin by the table that unwinding needs, sorted: of stripped programs too
/// ([.eh_frame_hdr](https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/ehframechpt.html)).
fn unwind_starts(elf: &Elf<'_>) -> Vec<u64> {
    const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
    let Some(header) = elf.segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME) else {
        return Vec::new();
    };
    let table = elf.bytes().read_up_to(header.offset, header.size.min(MAX_READ as u64));
    // Version 1, a pointer of 4 bytes, a count of 4 bytes, pairs of 4 bytes from the table's beginning: as every linker writes it.
    if table.len() < 12 || table[0] != 1 || table[1] & 0x0f != 0x0b || table[2] != 0x03 || table[3] != 0x3b {
        return Vec::new();
    }
    let pairs = table[12..].chunks_exact(8);
    let start = |pair: &[u8]| {
        let offset = i32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]]);
        header.address.wrapping_add_signed(i64::from(offset))
    };
    let mut starts: Vec<u64> = pairs.map(start).collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

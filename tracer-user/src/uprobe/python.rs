//! Programs of Python: where CPython keeps what its threads run, and what a function of a script is called.
//!
//! CPython exports its state (`_PyRuntime`) and its version (`Py_Version`, since 3.11), in the program or in `libpython`. The members' places are those of the releases 3.11, 3.12 and 3.13 (their
//! headers in `Include/internal`, x86-64); within one they have not changed. Other versions, and 3.13 without a global lock, are not read.

use std::{
    fs::File,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;
use tracer_ebpf as abi;

use super::{
    elf::Elf,
    maps::{MappedFile, Range},
    process::Process,
    symbols,
};

/// Longest name, and longest path, that is read, in characters: of longer ones the beginning.
const MAX_TEXT: u64 = 512;

/// Where members of CPython's structures are.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// 3.this.
    minor: u64,
    /// `_PyRuntime` begins with a word that says what it is, and whether there is a global lock.
    has_cookie: bool,
    /// `_PyRuntimeState.interpreters.head`.
    interpreters: u32,
    /// `PyInterpreterState.next`.
    interpreter_next: u32,
    /// `PyInterpreterState.threads.head`.
    interpreter_threads: u32,
    /// `PyThreadState.thread_id`.
    thread_id: u32,
    /// `PyThreadState.cframe`, or `.current_frame`.
    thread_frame: u32,
    /// `_PyCFrame.current_frame`.
    cframe_frame: u32,
    /// `_PyInterpreterFrame.f_code`, or `.f_executable`.
    frame_code: usize,
    /// `_PyInterpreterFrame.previous`.
    frame_previous: u32,
    /// How the first of the functions that one function of C runs is known.
    first: First,
    /// `sizeof(PyASCIIObject)` and `sizeof(PyCompactUnicodeObject)`, behind which the characters stand.
    text: [u64; 2],
}

/// How the first of the functions that one call of the interpreter's own function runs is known.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// It says so: byte of `_PyInterpreterFrame.is_entry`.
    BySelf(usize),
    /// A frame of nobody is behind it: byte of `_PyInterpreterFrame.owner`, which is `FRAME_OWNED_BY_CSTACK`.
    ByNext(usize),
}

/// `FRAME_OWNED_BY_CSTACK` (Include/internal/pycore_frame.h).
const OWNED_BY_CSTACK: u8 = 3;

/// `PyThreadState.next` and `.interp`, the same in all of them.
const THREAD_NEXT: u32 = 8;
const THREAD_INTERPRETER: u64 = 16;
/// `PyObject.ob_type`.
const OBJECT_TYPE: u64 = 8;
/// `PyCodeObject.co_filename` and `.co_qualname`.
const CODE_FILE: u64 = 112;
const CODE_NAME: u64 = 128;
/// `PyASCIIObject.length` and `.state`.
const TEXT_LENGTH: u64 = 16;
const TEXT_STATE: u64 = 32;

static LAYOUTS: [Layout; 3] = [
    Layout {
        minor: 11,
        has_cookie: false,
        interpreters: 40,
        interpreter_next: 0,
        interpreter_threads: 16,
        thread_id: 152,
        thread_frame: 56,
        cframe_frame: 8,
        frame_code: 32,
        frame_previous: 48,
        first: First::BySelf(68),
        text: [48, 72],
    },
    Layout {
        minor: 12,
        has_cookie: false,
        interpreters: 40,
        interpreter_next: 0,
        interpreter_threads: 72,
        thread_id: 136,
        thread_frame: 56,
        cframe_frame: 0,
        frame_code: 0,
        frame_previous: 8,
        first: First::ByNext(70),
        text: [40, 56],
    },
    Layout {
        minor: 13,
        has_cookie: true,
        interpreters: 632,
        interpreter_next: 7264,
        interpreter_threads: 7344,
        thread_id: 152,
        thread_frame: 72,
        cframe_frame: abi::NO_OFFSET,
        frame_code: 0,
        frame_previous: 8,
        first: First::ByNext(70),
        text: [40, 56],
    },
];

/// The head of a frame as the kernel side copies it.
pub type Head = [u64; abi::PYTHON_FRAME_WORDS];

/// Memory of a process.
pub trait Memory {
    /// Fills `bytes` with what stands at an address. Whether it could.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;

    /// A word.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then_some(u64::from_le_bytes(bytes))
    }
}

/// `/proc/PID/mem`.
impl Memory for File {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.read_exact_at(bytes, address).is_ok()
    }
}

/// The interpreter of a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Python {
    /// Address of `_PyRuntime`.
    runtime: u64,
    /// Address of `PyCode_Type`.
    code_type: u64,
    layout: &'static Layout,
}

/// Those of all processes, by their number. Bounded by whoever puts them in.
#[derive(Clone, Debug, Default)]
pub struct Pythons(Arc<Mutex<FxHashMap<u32, Arc<Python>>>>);

impl Pythons {
    /// That of a process.
    pub fn get(&self, pid: u32) -> Option<Arc<Python>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&pid).cloned()
    }

    /// Notes it, or that there is none (any more).
    pub fn set(&self, pid: u32, python: Option<Python>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match python {
            Some(python) => drop(all.insert(pid, Arc::new(python))),
            None => drop(all.remove(&pid)),
        }
    }
}

/// Where a file has what is needed, before relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbols {
    runtime: u64,
    version: u64,
    code_type: u64,
}

/// What a file exports of CPython; `None`: it is none of CPython 3.11 or later.
pub fn symbols(elf: &Elf<'_>) -> Option<Symbols> {
    let [runtime, version, code_type] = symbols::exported(elf, ["_PyRuntime", "Py_Version", "PyCode_Type"]);
    Some(Symbols { runtime: runtime?, version: version?, code_type: code_type? })
}

/// The files of a process that may hold the interpreter: the program, and what is called like it.
pub fn candidates(process: &Process) -> impl Iterator<Item = &MappedFile> {
    let is_named = |file: &MappedFile| {
        let name = Path::new(&file.path).file_name().unwrap_or_default().as_bytes();
        memchr::memmem::find(name, b"python").is_some()
    };
    process
        .files
        .iter()
        .enumerate()
        .filter(move |(at, file)| *at == 0 || is_named(file))
        .map(|(_, file)| file)
}

/// The interpreter that a mapped file holds, if it is one that is known and runs already.
pub fn find(memory: &dyn Memory, elf: &Elf<'_>, symbols: Symbols, ranges: &[Range]) -> Option<Python> {
    let moved = moved_by(elf, ranges)?;
    let at = |address: u64| address.wrapping_add(moved);
    let version = memory.word(at(symbols.version))?;
    let layout = LAYOUTS.iter().find(|layout| version >> 16 == 3 << 8 | layout.minor)?;
    let python = Python { runtime: at(symbols.runtime), code_type: at(symbols.code_type), layout };
    python.is_right(memory).then_some(python)
}

/// How far from where its file says its memory is.
fn moved_by(elf: &Elf<'_>, ranges: &[Range]) -> Option<u64> {
    ranges.iter().find_map(|range| {
        // What is mapped are whole pages.
        let inside = |(offset, _, size): &(u64, u64, u64)| {
            range.offset >= offset & !4095 && range.offset < offset + size
        };
        let (offset, address, _) = elf.code_parts().into_iter().find(inside)?;
        Some(range.start.wrapping_sub(address.wrapping_sub(offset).wrapping_add(range.offset)))
    })
}

impl Python {
    /// Whether its first thread says of itself what the layout lets expect: a build with other options has other places.
    fn is_right(&self, memory: &dyn Memory) -> bool {
        let layout = self.layout;
        if layout.has_cookie {
            let mut cookie = [0; 8];
            // Behind it its version, and whether it has no global lock.
            let is_free = memory.word(self.runtime.wrapping_add(16));
            if !memory.read(self.runtime, &mut cookie) || cookie != *b"xdebugpy" || is_free != Some(0) {
                return false;
            }
        }
        let word =
            |base: u64, offset: u32| memory.word(base.wrapping_add(offset.into())).filter(|word| *word != 0);
        let interpreter = word(self.runtime, layout.interpreters);
        let thread = interpreter.and_then(|interpreter| word(interpreter, layout.interpreter_threads));
        let of = thread.and_then(|thread| memory.word(thread.wrapping_add(THREAD_INTERPRETER)));
        interpreter.is_some() && of == interpreter
    }

    /// What the kernel side has to know.
    pub fn told(&self) -> abi::PythonProcess {
        let layout = self.layout;
        abi::PythonProcess {
            interpreters: self.runtime.wrapping_add(layout.interpreters.into()),
            interpreter_next: layout.interpreter_next,
            interpreter_threads: layout.interpreter_threads,
            thread_next: THREAD_NEXT,
            thread_id: layout.thread_id,
            thread_frame: layout.thread_frame,
            cframe_frame: layout.cframe_frame,
            frame_previous: layout.frame_previous,
            reserved: 0,
        }
    }

    /// The code of functions by the heads of their frames, and whether each is the first that its function of C runs.
    pub fn functions(&self, heads: &[Head]) -> Vec<(u64, bool)> {
        let byte = |head: &Head, at: usize| head[at / 8].to_le_bytes()[at % 8];
        let mut found: Vec<(u64, bool)> = Vec::with_capacity(heads.len());
        for head in heads {
            let code = head[self.layout.frame_code / 8];
            match self.layout.first {
                First::BySelf(at) => found.push((code, byte(head, at) != 0)),
                First::ByNext(at) if byte(head, at) == OWNED_BY_CSTACK => {
                    if let Some(last) = found.last_mut() {
                        last.1 = true;
                    }
                }
                First::ByNext(_) => found.push((code, false)),
            }
        }
        found
    }

    /// Name and file of a function, by its code. `None`: there is no code (any more).
    pub fn name(&self, memory: &dyn Memory, code: u64) -> Option<Name> {
        if memory.word(code.checked_add(OBJECT_TYPE)?)? != self.code_type {
            return None;
        }
        let text = |offset: u64| self.text(memory, memory.word(code.checked_add(offset)?)?);
        Some(Name { function: text(CODE_NAME)?, path: text(CODE_FILE)? })
    }

    /// A `str`.
    fn text(&self, memory: &dyn Memory, object: u64) -> Option<String> {
        let length = memory.word(object.checked_add(TEXT_LENGTH)?)?.min(MAX_TEXT) as usize;
        let state = memory.word(object.checked_add(TEXT_STATE)?)?;
        // Two bits of how it is shared, three of how wide a character is; whether it is in one piece, and of ASCII.
        let (kind, is_compact, is_ascii) = (state >> 2 & 7, state >> 5 & 1 != 0, state >> 6 & 1 != 0);
        if !is_compact {
            return None;
        }
        let at = object.checked_add(self.layout.text[usize::from(!is_ascii)])?;
        let width = kind as usize;
        if ![1, 2, 4].contains(&width) {
            return None;
        }
        let mut bytes = vec![0; length * width];
        if !memory.read(at, &mut bytes) {
            return None;
        }
        let character = |bytes: &[u8]| {
            let number = bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
            char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        Some(bytes.chunks_exact(width).map(character).collect())
    }
}

/// What a function is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `Class.function`, `function.<locals>.<lambda>`.
    pub function: String,
    /// Where it was written.
    pub path: String,
}

impl Name {
    /// Whether it stands for cleaning up behind `__init__`, which nobody has written (`_Py_InitCleanup` in Python/specialize.c).
    pub fn is_nobodys(&self) -> bool {
        self.function == "__init__" && self.path == "__init__"
    }

    /// As stacks have it: `Class.function (file)`. Of the file what is behind the folder of packages, or its name; of the standard library from
    /// `python3.11/` on.
    pub fn frame(&self) -> String {
        format!("{} ({})", self.function, self.file())
    }

    fn file(&self) -> &str {
        for folder in ["/site-packages/", "/dist-packages/"] {
            if let Some((_, inside)) = self.path.rsplit_once(folder) {
                return inside;
            }
        }
        if let Some(at) = self.path.rfind("/python3.") {
            let inside = &self.path[at + 1..];
            let version = inside["python3.".len()..].split('/').next().unwrap_or_default();
            if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) {
                return inside;
            }
        }
        // `<string>`, `<frozen importlib._bootstrap>` are no paths.
        if self.path.starts_with('<') {
            return &self.path;
        }
        self.path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("[python]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words at addresses.
    #[derive(Default)]
    struct Words(FxHashMap<u64, u8>);

    impl Words {
        fn put(&mut self, address: u64, bytes: &[u8]) {
            self.0.extend(bytes.iter().enumerate().map(|(at, byte)| (address + at as u64, *byte)));
        }

        fn put_word(&mut self, address: u64, word: u64) {
            self.put(address, &word.to_le_bytes());
        }

        /// A `str` with characters of so many bytes.
        fn put_text(&mut self, address: u64, layout: &Layout, kind: u64, text: &str) {
            let is_ascii = text.is_ascii();
            self.put_word(address + TEXT_LENGTH, text.chars().count() as u64);
            self.put_word(address + TEXT_STATE, 1 | kind << 2 | 1 << 5 | u64::from(is_ascii) << 6);
            let at = address + layout.text[usize::from(!is_ascii)];
            for (n, c) in text.chars().enumerate() {
                self.put(at + n as u64 * kind, &u32::from(c).to_le_bytes()[..kind as usize]);
            }
        }
    }

    impl Memory for Words {
        fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
            bytes
                .iter_mut()
                .enumerate()
                .all(|(at, byte)| self.0.get(&(address + at as u64)).map(|found| *byte = *found).is_some())
        }
    }

    fn python(minor: u64) -> Python {
        let layout = LAYOUTS.iter().find(|layout| layout.minor == minor).unwrap();
        Python { runtime: 0x1000, code_type: 0x2000, layout }
    }

    #[test]
    fn a_function_has_its_name_and_file_in_characters_of_any_width() {
        for minor in [11, 12, 13] {
            let python = python(minor);
            let mut memory = Words::default();
            memory.put_word(0x5000 + OBJECT_TYPE, 0x2000);
            memory.put_word(0x5000 + CODE_NAME, 0x6000);
            memory.put_word(0x5000 + CODE_FILE, 0x8000);
            for (kind, name) in [(1, "Handler.do_GET"), (1, "größe"), (2, "größe.κ"), (4, "a.😀")] {
                memory.put_text(0x6000, python.layout, kind, name);
                memory.put_text(0x8000, python.layout, 1, "/srv/shop.py");
                let found = python.name(&memory, 0x5000).unwrap();
                assert_eq!(found.frame(), format!("{name} (shop.py)"), "3.{minor}");
            }
            // Other things, and nothing, stand where code stood.
            assert_eq!(python.name(&memory, 0x6000), None);
            assert_eq!(python.name(&memory, 0xdead_0000), None);
            assert_eq!(python.name(&memory, u64::MAX), None);
            memory.put_word(0x6000 + TEXT_STATE, 0);
            assert_eq!(python.name(&memory, 0x5000), None);
        }
    }

    #[test]
    fn files_are_told_by_what_tells_them_apart() {
        for (path, file) in [
            ("/srv/shop/views.py", "views.py"),
            (
                "/srv/venv/lib/python3.11/site-packages/django/core/handlers/base.py",
                "django/core/handlers/base.py",
            ),
            ("/usr/lib/python3/dist-packages/flask/app.py", "flask/app.py"),
            ("/usr/lib/python3.11/http/server.py", "python3.11/http/server.py"),
            ("/opt/python3.x/a.py", "a.py"),
            ("/opt/python3./a.py", "a.py"),
            ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
            ("<string>", "<string>"),
            ("shop.py", "shop.py"),
            ("", "[python]"),
            ("/", "[python]"),
        ] {
            assert_eq!(Name { function: "f".to_owned(), path: path.to_owned() }.file(), file, "{path}");
        }
    }

    #[test]
    fn the_first_function_of_each_of_c_is_known() {
        let old = |code: u64, is_entry: u64| -> Head { [0, 0, 0, 0, code, 0, 0, 0, is_entry << 32] };
        let heads = [old(7, 0), old(8, 1), old(9, 1)];
        assert_eq!(python(11).functions(&heads), [(7, false), (8, true), (9, true)]);
        let new = |code: u64, owner: u64| -> Head { [code, 0, 0, 0, 0, 0, 0, 0, owner << 48] };
        // Of a thread that is just beginning to run one, nobody's stands alone.
        let heads = [new(1, 3), new(7, 0), new(8, 1), new(1, 3), new(9, 0), new(1, 3)];
        for minor in [12, 13] {
            assert_eq!(python(minor).functions(&heads), [(7, false), (8, true), (9, true)]);
        }
    }

    #[test]
    fn an_interpreter_is_taken_if_its_first_thread_says_that_it_is_its() {
        for minor in [11, 12, 13] {
            let python = python(minor);
            let mut memory = Words::default();
            assert!(!python.is_right(&memory));
            memory.put(0x1000, b"xdebugpy");
            memory.put_word(0x1010, 0);
            memory.put_word(0x1000 + u64::from(python.layout.interpreters), 0x3_0000);
            memory.put_word(0x3_0000 + u64::from(python.layout.interpreter_threads), 0x5_0000);
            memory.put_word(0x5_0000 + THREAD_INTERPRETER, 0x3_0000);
            assert!(python.is_right(&memory), "3.{minor}");
            memory.put_word(0x5_0000 + THREAD_INTERPRETER, 0x3_0008);
            assert!(!python.is_right(&memory));
            memory.put_word(0x5_0000 + THREAD_INTERPRETER, 0x3_0000);
            // Without a global lock objects are others.
            memory.put_word(0x1010, 1);
            assert_eq!(python.is_right(&memory), minor < 13);
        }
    }
}

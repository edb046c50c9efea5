//! Which TLS a process speaks, and where probes would go to see its plaintext.
//!
//! Libraries are known by what they define and not by their names, so that one under another name, inside a program or without a file
//! any more is found too. What a program has linked in and stripped is known by the texts that it left: BoringSSL's functions are found by the errors that they report
//! (`stripped`), the others are named, with the reason why they have no place.

mod families;
mod go;
mod nss;
mod reports;
mod rustls;
mod stripped;
mod version;

use std::{fs, path::Path};

use serde::Serialize;

use self::families::Family;
pub use self::{
    go::{Copy, Send},
    rustls::RUSTLS,
};
use super::{
    debug_files,
    elf::{Elf, ElfError},
    maps::{FileId, MappedFile},
    placement::Site,
    process::{Closed, Opened, Process},
    symbols::Symbols,
};

/// Files that are named among those that could not be looked into.
const MAX_NAMED: usize = 8;

/// What was found in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessTls {
    /// Which.
    pub pid: u32,
    /// The name of its main thread.
    pub name: String,
    /// Its libraries, in the order in which they are mapped.
    pub libraries: Vec<Library>,
    /// Files with code that were looked into.
    pub n_files: usize,
    /// What could not be looked into, and which right that takes.
    pub unreadable: Vec<String>,
}

/// One library, in a file of its own or inside a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// What it is.
    pub kind: &'static str,
    /// Its version, as far as it can be told.
    pub version: Option<String>,
    /// Its file, as the process sees it.
    pub file: String,
    /// The same by numbers.
    #[serde(skip)]
    pub id: FileId,
    /// Whether that name is gone or another file's by now.
    pub deleted: bool,
    /// A path by which the file can be opened from outside.
    pub path: String,
    /// Which build it is.
    pub build_id: Option<String>,
    /// What would be probed.
    pub functions: Vec<Function>,
    /// Why nothing is, or what else has to be known.
    pub note: Option<String>,
}

/// A function that would be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Where a probe sees its arguments.
    pub entry: Option<Site>,
    /// Where its end is seen.
    pub end: End,
}

/// How a function's end is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By a return probe that is set at this place.
    ReturnProbe(Site),
    /// By a return probe on an inner function, which costs less; its own arguments are seen there as well.
    Inner(Site),
    /// The same where the inner function has its flags before where it leaves its length.
    InnerWithFlags(Site),
    /// Go, whose moving stacks no return probe survives: by the one call within it that copies what it gives.
    Copies(Site, Copy),
    /// Go as well: by the calls within it that send, and what is behind each.
    Sends(Vec<Send>),
    /// Its arguments say all.
    Unneeded,
    /// Not at all.
    Unseen,
}

/// Looks at a process. An error is one of the process as a whole; files that could not be read are named in what is returned.
pub fn of(proc_root: &Path, pid: u32) -> Result<ProcessTls, Closed> {
    let process = Process::read(proc_root, pid)?;
    let mut tls =
        ProcessTls { pid, name: crate::text::data_text(&process.name).into_owned(), ..ProcessTls::default() };
    if process.files.is_empty() {
        // A kernel thread, a zombie, or a process of which maps show nothing to this caller.
        let is_closed = fs::read_link(proc_root.join(format!("{pid}/exe"))).is_err();
        let why = if is_closed {
            "it has no code of its own: a kernel thread or a zombie"
        } else {
            "no file's code is mapped"
        };
        tls.unreadable.push(why.to_owned());
    }
    if process.cut_short {
        tls.unreadable.push("its maps are too long: the rest was not looked at".to_owned());
    }
    let mut versions = version::Hints::default();
    let mut n_closed = 0;
    let mut closed = |tls: &mut ProcessTls, mapped: &MappedFile, why: &dyn std::fmt::Display| {
        n_closed += 1;
        if n_closed <= MAX_NAMED {
            tls.unreadable.push(format!("{}: {why}", mapped.path.to_string_lossy()));
        }
    };
    for mapped in &process.files {
        match process.open(mapped) {
            Ok(opened) => {
                tls.n_files += 1;
                let elf = match Elf::parse(&opened.file) {
                    Ok(elf) => elf,
                    // Code is mapped from other files too: what a program compiled for itself.
                    Err(ElfError::NotElf) => continue,
                    Err(error) => {
                        closed(&mut tls, mapped, &error);
                        continue;
                    }
                };
                let found = look(&process, mapped, &elf, &mut versions);
                tls.libraries.extend(found.into_iter().map(|mut library| {
                    library.path = opened.path.to_string_lossy().into_owned();
                    library
                }));
            }
            Err(Closed::Gone) if fs::read_link(proc_root.join(format!("{pid}/exe"))).is_err() => {
                tls.unreadable.push("it ended meanwhile: the rest was not looked at".to_owned());
                break;
            }
            Err(error) => closed(&mut tls, mapped, &error),
        }
    }
    if n_closed > MAX_NAMED {
        tls.unreadable.push(format!("and {} more files", n_closed - MAX_NAMED));
    }
    families::join(&mut tls.libraries, &versions);
    Ok(tls)
}

/// What of TLS a mapped file holds; versions that stand in other files are not known.
pub fn of_file(process: &Process, mapped: &MappedFile, opened: &Opened) -> Vec<Library> {
    let Ok(elf) = Elf::parse(&opened.file) else { return Vec::new() };
    look(process, mapped, &elf, &mut version::Hints::default())
}

/// What of TLS one file holds.
fn look(
    process: &Process,
    mapped: &MappedFile,
    elf: &Elf<'_>,
    versions: &mut version::Hints,
) -> Vec<Library> {
    let mut symbols = Symbols::of(elf);
    let constants = version::constants(elf);
    let mut found = families::find(elf, &symbols, &constants);
    versions.see(&constants, &symbols);
    let has_place = found.iter().any(|(_, functions)| !functions.is_empty());
    if !found.is_empty() && !has_place && !symbols.has_local {
        let folder = Path::new(&mapped.path).parent().unwrap_or(Path::new("/"));
        let root = process.path("/".as_ref());
        // What distributions keep apart is the host's more often than the container's.
        let apart =
            debug_files::find(elf, &root, folder).or_else(|| debug_files::find(elf, Path::new("/"), folder));
        if let Some(file) = apart
            && let Ok(debug) = Elf::parse(&file)
        {
            symbols.add(&debug);
            found = families::find(elf, &symbols, &constants);
        }
    }
    let library = |(family, functions): (Family, Vec<Function>)| Library {
        kind: family.kind,
        version: family.version,
        file: mapped.path.to_string_lossy().into_owned(),
        id: mapped.id,
        deleted: mapped.deleted,
        path: String::new(),
        build_id: elf.build_id(),
        functions,
        note: family.note,
    };
    found.into_iter().map(library).collect()
}

//! From the address of an instruction in a file to the functions that it belongs to.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use blazesym::symbolize::{
    Input, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use crate::uprobe::resolve::Code;

/// Most functions that were inlined one into the other and are shown; compilers stop far below.
const MAX_INLINED: usize = 64;

/// The files that say something of one file's code.
#[derive(Debug)]
pub(super) struct Sources {
    all: Vec<OneSource>,
    /// The name of the file as frames have it behind them.
    file: String,
    symbolizer: Symbolizer,
}

#[derive(Debug)]
struct OneSource {
    path: PathBuf,
    code: Code,
    debug: Source<'static>,
}

impl Sources {
    /// `recorded`: the path of the file that they are about.
    pub(super) fn open(paths: &[PathBuf], recorded: &Path) -> Sources {
        let open = |path: &PathBuf| {
            // Under the name that was recorded, whatever the debug file is called.
            let code = Code::read(&File::open(path).ok()?, recorded).ok()?;
            Some(OneSource { path: path.clone(), code, debug: Source::Elf(Elf::new(path)) })
        };
        Sources {
            all: paths.iter().filter_map(open).collect(),
            file: format!(" ({})", recorded.file_name().unwrap_or(recorded.as_os_str()).to_string_lossy()),
            // Where in the source is not shown, and asked for all the same: without it blazesym tells of no inlined functions.
            symbolizer: Symbolizer::builder().enable_code_info(true).enable_inlined_fns(true).build(),
        }
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.all.iter().map(|source| source.path.clone()).collect()
    }

    /// What stands for a frame: the functions that were inlined there, the innermost first, and the one that holds them.
    pub(super) fn shown(&self, address: u64, text: &str) -> Vec<String> {
        let file = &self.file;
        let place = text.strip_suffix(file).unwrap_or(text);
        let is_nameless = place.starts_with("+0x");
        // The text tells where the call returns to, the address what called.
        let told =
            place.strip_prefix("+0x").and_then(|at| u64::from_str_radix(at, 16).ok()).unwrap_or(address);
        let mut outer = text.to_owned();
        let mut inlined = Vec::new();
        for source in &self.all {
            if is_nameless && outer == text {
                outer = source.code.text(told, address);
            }
            if !inlined.is_empty() {
                continue;
            }
            if let Ok(Symbolized::Sym(found)) =
                self.symbolizer.symbolize_single(&source.debug, Input::VirtOffset(address))
            {
                if is_nameless && outer == text {
                    let offset = found.offset as u64 + told.wrapping_sub(address);
                    outer = format!("{}+{offset:#x}{file}", found.name);
                }
                inlined.extend(
                    found.inlined.iter().rev().take(MAX_INLINED).map(|one| format!("{}{file}", one.name)),
                );
            }
        }
        inlined.push(outer);
        inlined
    }
}

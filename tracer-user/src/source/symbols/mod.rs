//! Names that were found for the frames of a recording after it was made: a file beside its parts, from which on everything that reads the recording shows them.
//!
//! A recording tells of each frame its name as it was known on the host that was traced, and in which file it is and where ([`CodePlaces`]). Elsewhere, with the
//! symbols of a stripped program or with its debug information, more is known: its name, and which functions were inlined there.

mod files;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use files::Finder;

use crate::{
    event::{CodeFile, CodePlaces, Event},
    schema::{
        FormatError,
        event_rows::{EventColumns, Kind, Row},
    },
    source::recording::Recording,
    transaction::{Transaction, stacks::frames_text},
};

/// Of the file: some 100 bytes a frame.
const MAX_BYTES: u64 = 256 << 20;
/// Different frames of a recording that are looked up; a large program has some hundred thousand places where it was met in days.
pub const MAX_FRAMES: usize = 1 << 20;
/// The file's version.
const VERSION: u32 = 1;

/// What to show in place of frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbols {
    version: u32,
    /// By the text of a frame as it was recorded: the frames that stand for it, the innermost first. Functions that were inlined have no offset.
    frames: BTreeMap<String, Vec<String>>,
}

impl Symbols {
    /// The file's name in the folder of a recording.
    pub const NAME: &str = "symbols.json";

    /// Nothing was found.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that something was found for.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// These, and what was found before where these say nothing, or nothing of inlined functions.
    pub fn over(mut self, before: Symbols) -> Symbols {
        for (text, shown) in before.frames {
            let says_less = self.frames.get(&text).is_none_or(|now| now.len() < shown.len());
            if says_less {
                self.frames.insert(text, shown);
            }
        }
        self
    }

    /// Those of a recording; `None`: nobody looked for any.
    pub fn read(dir: &Path) -> io::Result<Option<Symbols>> {
        let path = dir.join(Symbols::NAME);
        let bytes = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than any that txray writes"));
            }
            Ok(_) => fs::read(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let symbols: Symbols = serde_json::from_slice(&bytes)?;
        if symbols.version != VERSION {
            let what = format!("of version {}, this txray knows {VERSION}", symbols.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Some(symbols))
    }

    /// Puts them beside the recording, whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<PathBuf> {
        let mut file = tempfile::Builder::new().prefix("_symbols").tempfile_in(dir)?;
        serde_json::to_writer(io::BufWriter::new(&mut file), self)?;
        file.as_file().sync_all()?;
        let path = dir.join(Symbols::NAME);
        file.persist(&path)?;
        Ok(path)
    }

    /// A JSON array of frames with what stands for them; `None`: as it is.
    fn shown(&self, frames: &str) -> Option<Arc<str>> {
        let recorded: Vec<String> = serde_json::from_str(frames).ok()?;
        if !recorded.iter().any(|frame| self.frames.contains_key(frame)) {
            return None;
        }
        let shown: Vec<&str> = recorded
            .iter()
            .flat_map(|frame| match self.frames.get(frame) {
                Some(found) => found.iter().map(String::as_str).collect(),
                None => vec![frame.as_str()],
            })
            .collect();
        Some(frames_text(&shown))
    }

    /// Puts them into an event.
    pub fn name(&self, event: &mut Event) {
        if let Event::Stack(stack) = event
            && let Some(shown) = self.shown(&stack.frames)
        {
            stack.frames = shown;
        }
    }

    /// Puts them into a transaction.
    pub fn name_in(&self, transaction: &mut Transaction) {
        if let Some(call) = &mut transaction.call
            && let Some(shown) = call.stack.as_ref().and_then(|stack| self.shown(&stack.frames))
            && let Some(stack) = &mut Arc::make_mut(call).stack
        {
            stack.frames = shown;
        }
        let Some(causes) = &mut transaction.causes else { return };
        for sum in &mut causes.stacks {
            if let Some(shown) = self.shown(&sum.frames) {
                sum.frames = shown;
            }
        }
    }
}

/// The frames of a recording.
#[derive(Debug, Default)]
pub struct Places {
    /// By file: by the address of an instruction the texts of the frames there.
    pub files: BTreeMap<CodeFile, BTreeMap<u64, BTreeSet<String>>>,
    /// Stacks that do not say where they are: of recordings of before, and of processes that were gone.
    pub n_without: u64,
    /// Stacks.
    pub n_stacks: u64,
    /// Stacks that were not looked at: there were [`MAX_FRAMES`] frames.
    pub n_beyond: u64,
}

impl Places {
    /// Reads those of a recording. Files that cannot be read are given back, each once.
    pub fn of(recording: &Recording) -> (Places, Vec<FormatError>) {
        let (mut places, mut faults) = (Places::default(), Vec::new());
        let mut known = rustc_hash::FxHashSet::<(Arc<str>, Arc<str>)>::default();
        let mut n_frames = 0;
        for part in recording.runs.iter().flat_map(|run| &run.events) {
            let read = part.each_batch(&mut |batch| {
                let columns = EventColumns::new(batch)?;
                for i in (0..columns.len()).filter(|i| columns.is(*i, Kind::Stack)) {
                    let Row::Event(Event::Stack(stack)) = columns.row(i)? else { continue };
                    places.n_stacks += 1;
                    if stack.code.is_empty() {
                        places.n_without += 1;
                    } else if n_frames < MAX_FRAMES {
                        let stack = (stack.frames, stack.code);
                        if !known.contains(&stack) {
                            n_frames += places.add(&stack.0, &stack.1);
                            known.insert(stack);
                        }
                    } else {
                        places.n_beyond += 1;
                    }
                }
                Ok(())
            });
            faults.extend(read.err());
        }
        (places, faults)
    }

    /// How many of its frames are new.
    fn add(&mut self, frames: &str, code: &str) -> usize {
        let (Ok(frames), Ok(code)) =
            (serde_json::from_str::<Vec<String>>(frames), serde_json::from_str::<CodePlaces>(code))
        else {
            return 0;
        };
        let mut n_new = 0;
        for (text, place) in frames.into_iter().zip(code.at) {
            let Some((file, address)) = place else { continue };
            let Some(file) = code.files.get(file as usize) else { continue };
            if !self.files.contains_key(file) {
                self.files.insert(file.clone(), BTreeMap::new());
            }
            let texts = self.files.get_mut(file).map(|file| file.entry(address).or_default());
            n_new += usize::from(texts.is_some_and(|texts| texts.insert(text)));
        }
        n_new
    }
}

/// What was found for one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The files that were read for it, those that somebody named first.
    pub read: Vec<PathBuf>,
    /// Frames of it.
    pub n_frames: usize,
    /// Those that had no name and have one now.
    pub n_named: usize,
    /// Those that still have none.
    pub n_nameless: usize,
    /// Those at which functions were inlined.
    pub n_inlined: usize,
    /// Those whose text is also that of another place, where other functions are: they stay what they are.
    pub n_ambiguous: usize,
}

/// Looks all frames of a recording up.
pub fn find(places: &Places, finder: &Finder) -> (Symbols, Vec<(CodeFile, Found)>) {
    let mut texts = Texts::new();
    let mut all = Vec::new();
    for (at, (file, addresses)) in places.files.iter().enumerate() {
        let sources = names::Sources::open(&finder.files(file), Path::new(&file.path));
        let mut found = Found { read: sources.paths(), ..Found::default() };
        for (address, frames) in addresses {
            for text in frames {
                found.n_frames += 1;
                texts.entry(text).or_default().push((at, sources.shown(*address, text)));
            }
        }
        all.push((file.clone(), found));
    }
    let symbols = table(texts, &mut all);
    (symbols, all)
}

/// By the text of a frame: of each place with this text the number of its file, and what stands for it.
type Texts<'a> = BTreeMap<&'a str, Vec<(usize, Vec<String>)>>;

/// What stands for each text, where that is one thing.
fn table(texts: Texts<'_>, files: &mut [(CodeFile, Found)]) -> Symbols {
    let mut symbols = Symbols { version: VERSION, frames: BTreeMap::new() };
    let is_nameless = |frame: &str| frame.starts_with("+0x");
    for (text, mut places) in texts {
        let is_ambiguous = places.iter().any(|(_, other)| *other != places[0].1);
        for (at, shown) in &places {
            let found = &mut files[*at].1;
            found.n_ambiguous += usize::from(is_ambiguous);
            let has_name = !is_ambiguous && shown.last().is_some_and(|outer| !is_nameless(outer));
            found.n_named += usize::from(is_nameless(text) && has_name);
            found.n_nameless += usize::from(is_nameless(text) && !has_name);
            found.n_inlined += usize::from(!is_ambiguous && shown.len() > 1);
        }
        let shown = places.swap_remove(0).1;
        if !is_ambiguous && shown != [text] {
            symbols.frames.insert(text.to_owned(), shown);
        }
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(frames: &[&str]) -> Vec<String> {
        frames.iter().map(|frame| (*frame).to_owned()).collect()
    }

    fn symbols(frames: &[(&str, &[&str])]) -> Symbols {
        let frames = frames.iter().map(|(text, shown)| ((*text).to_owned(), texts(shown)));
        Symbols { version: VERSION, frames: frames.collect() }
    }

    #[test]
    fn a_text_that_is_that_of_two_functions_stays_what_it_is() {
        let file = |path: &str| CodeFile { path: path.to_owned(), build_id: None };
        let mut files = [(file("/a/x.so"), Found::default()), (file("/b/x.so"), Found::default())];
        let at = |at, shown: &[&str]| (at, texts(shown));
        let of = Texts::from([
            ("+0x10 (x.so)", vec![at(0, &["f+0x0 (x.so)"]), at(1, &["g+0x0 (x.so)"])]),
            ("+0x20 (x.so)", vec![at(0, &["h+0x0 (x.so)"]), at(1, &["h+0x0 (x.so)"])]),
            ("+0x30 (x.so)", vec![at(1, &["+0x30 (x.so)"])]),
            ("i+0x1 (x.so)", vec![at(0, &["inner (x.so)", "i+0x1 (x.so)"])]),
        ]);
        let found = table(of, &mut files);
        assert_eq!(
            found,
            symbols(&[
                ("+0x20 (x.so)", &["h+0x0 (x.so)"]),
                ("i+0x1 (x.so)", &["inner (x.so)", "i+0x1 (x.so)"]),
            ])
        );
        let numbers = |found: &Found| [found.n_named, found.n_nameless, found.n_inlined, found.n_ambiguous];
        assert_eq!((numbers(&files[0].1), numbers(&files[1].1)), ([1, 1, 1, 1], [1, 2, 0, 1]));
    }

    #[test]
    fn what_was_found_before_stays_unless_more_is_found() {
        let before = symbols(&[("+0x1 (x)", &["f+0x1 (x)"]), ("+0x2 (x)", &["in (x)", "g+0x0 (x)"])]);
        let now = symbols(&[("+0x1 (x)", &["in (x)", "f+0x1 (x)"]), ("+0x2 (x)", &["g+0x0 (x)"])]);
        let both = symbols(&[("+0x1 (x)", &["in (x)", "f+0x1 (x)"]), ("+0x2 (x)", &["in (x)", "g+0x0 (x)"])]);
        assert_eq!(now.over(before), both);
    }

    #[test]
    fn a_file_reads_back_as_it_was_written_and_one_that_is_not_ours_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Symbols::read(dir.path()).unwrap(), None);
        let all = symbols(&[("+0x1 (x)", &["f\"+0x1 (x)"])]);
        all.write(dir.path()).unwrap();
        assert_eq!(Symbols::read(dir.path()).unwrap().as_ref(), Some(&all));
        assert_eq!(all.shown(r#"["+0x1 (x)","+0x9 (x)"]"#).as_deref(), Some(r#"["f\"+0x1 (x)","+0x9 (x)"]"#));
        assert_eq!(all.shown(r#"["+0x9 (x)"]"#), None);
        fs::write(dir.path().join(Symbols::NAME), r#"{"version":2,"frames":{}}"#).unwrap();
        assert!(Symbols::read(dir.path()).unwrap_err().to_string().contains("version 2"));
        fs::write(dir.path().join(Symbols::NAME), "nonsense").unwrap();
        assert!(Symbols::read(dir.path()).is_err());
    }

    #[test]
    fn places_are_those_of_their_frames() {
        let mut places = Places::default();
        let code = r#"{"files":[{"path":"/x","build_id":"ab"},{"path":"/y","build_id":null}],"at":[null,[1,16],[0,32],[7,1]]}"#;
        let frames = r#"["k (kernel)","+0x10 (y)","f+0x1 (x)","of no file"]"#;
        assert_eq!((places.add(frames, code), places.add(frames, code)), (2, 0));
        let told: Vec<(&str, u64, usize)> = places
            .files
            .iter()
            .flat_map(|(file, at)| at.iter().map(|(address, texts)| (&*file.path, *address, texts.len())))
            .collect();
        assert_eq!(told, [("/x", 32, 1), ("/y", 16, 1)]);
        assert_eq!(places.add("nonsense", code), 0);
    }
}

//! Several captures as one: the files that `tcpdump -C` and `-G` have left behind, or captures of several interfaces, packet by packet in
//! the order of their times, in whichever order they are named.
//!
//! A file is open from when its first packet is due to its end, so that of files that follow each other two are open at once. Within a
//! file packets come as they stand there. Of packets with the same time that of the file that begins earlier comes first.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    CaptureError,
    file::{CaptureFile, Frame},
    layers::{is_known, link_name},
    waiting,
};
use crate::text::screen_text;

/// Captures that are read at once, because they are of the same time: 256 KiB each, twice that where they are compressed, and below what a
/// process may have open (1,024). Others of that time are left out, with a fault.
const MAX_OPEN: usize = 256;
/// Files that are named when they cannot be read (any further); more are only counted.
const MAX_NAMED: usize = 8;

/// What could not be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    named: Vec<String>,
    n_more: usize,
}

impl Faults {
    fn add(&mut self, fault: String) {
        match self.named.len() {
            MAX_NAMED.. => self.n_more += 1,
            _ => self.named.push(fault),
        }
    }

    /// All of them, for people.
    pub(super) fn text(&self) -> Option<String> {
        let named = (!self.named.is_empty()).then(|| self.named.join("; "));
        match self.n_more {
            0 => named,
            n => named.map(|named| format!("{named}; and {n} more files")),
        }
    }
}

/// The captures that are read.
pub(super) struct Files {
    /// Those that are not open yet, by the time of their first packets.
    later: VecDeque<(u64, PathBuf)>,
    open: Vec<CaptureFile>,
    /// Of the open ones that whose packet was shown last.
    shown: Option<usize>,
    dropped: u64,
    faults: Faults,
}

impl Files {
    /// One that is open.
    pub(super) fn one(name: &str, input: impl Read + Send + 'static) -> Result<Files, CaptureError> {
        Ok(Files::of(checked(CaptureFile::open(name, input)?)?))
    }

    /// Opens captures, `-` being standard input. An error is that of the first that is none; one that is broken is a fault among several.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Files, CaptureError> {
        if let [path] = paths {
            // What is still written is read as it comes: its first packet is not waited for.
            return Ok(Files::of(open(path)?));
        }
        let (mut now, mut later) = (Vec::new(), Vec::new());
        let (mut faults, mut dropped) = (Faults::default(), 0_u64);
        for path in paths {
            let mut file = match open(path) {
                Err(error @ CaptureError::Damaged { .. }) => {
                    faults.add(error.to_string());
                    continue;
                }
                file => file?,
            };
            match file.read_packet() {
                Ok(false) => dropped = dropped.saturating_add(file.dropped()),
                Err(error) => faults.add(error.to_string()),
                // It cannot be opened twice.
                Ok(true) if is_stdin(path) => now.push(file),
                Ok(true) => later.push((file.packet().time_ns, path.clone())),
            }
        }
        later.sort_by_key(|(first, _)| *first);
        Ok(Files { later: later.into(), open: now, shown: None, dropped, faults })
    }

    fn of(file: CaptureFile) -> Files {
        let faults = Faults::default();
        // Its first packet has to be read.
        Files { later: VecDeque::new(), open: vec![file], shown: Some(0), dropped: 0, faults }
    }

    /// What could not be read so far.
    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Packets that whoever captured could not store, by its own account.
    pub(super) fn dropped(&self) -> u64 {
        self.open.iter().fold(self.dropped, |sum, file| sum.saturating_add(file.dropped()))
    }

    /// Whether the next packet would be waited for, for longer than `most`: it is the only capture, and still being written.
    pub(super) fn is_dry(&self, most: Duration) -> bool {
        match &self.open[..] {
            [file] => self.shown.is_some() && self.later.is_empty() && file.is_dry(most),
            _ => false,
        }
    }

    /// The next packet; `None` at the end.
    pub(super) fn next_packet(&mut self) -> Option<Frame<'_>> {
        if let Some(shown) = self.shown.take() {
            self.advance(shown);
        }
        self.open_due();
        let times = self.open.iter().map(|file| file.packet().time_ns).enumerate();
        let (next, _) = times.min_by_key(|(_, time)| *time)?;
        self.shown = Some(next);
        Some(self.open[next].packet())
    }

    /// Reads the next packet of an open capture, or closes it.
    fn advance(&mut self, at: usize) {
        let fault = match self.open[at].read_packet() {
            Ok(true) => return,
            Ok(false) => None,
            Err(error) => Some(error.to_string()),
        };
        // Those behind it keep their order.
        let file = self.open.remove(at);
        self.dropped = self.dropped.saturating_add(file.dropped());
        if let Some(fault) = fault {
            self.faults.add(fault);
        }
    }

    /// Opens what begins before the next packet of those that are open.
    fn open_due(&mut self) {
        while let Some((first, _)) = self.later.front() {
            let next = self.open.iter().map(|file| file.packet().time_ns).min();
            if next.is_some_and(|next| next < *first) {
                return;
            }
            let Some((_, path)) = self.later.pop_front() else { return };
            if self.open.len() >= MAX_OPEN {
                let name = screen_text(&path.display().to_string()).into_owned();
                self.faults.add(format!("{name}: left out: more than {MAX_OPEN} captures of the same time"));
                continue;
            }
            match open(&path) {
                Ok(mut file) => {
                    // The lowest that is free: files that follow each other are of one place.
                    let is_free = |number: &u32| self.open.iter().all(|file| file.number != *number);
                    file.number = (0..).find(is_free).unwrap_or(u32::MAX);
                    self.open.push(file);
                    self.advance(self.open.len() - 1);
                }
                Err(error) => self.faults.add(error.to_string()),
            }
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn open(path: &Path) -> Result<CaptureFile, CaptureError> {
    if is_stdin(path) {
        let (input, waiting) = waiting::stdin();
        let mut file = CaptureFile::open("standard input", input)?;
        file.waiting = Some(waiting);
        return checked(file);
    }
    let name = screen_text(&path.display().to_string()).into_owned();
    match File::open(path) {
        Ok(file) => checked(CaptureFile::open(&name, file)?),
        Err(source) => Err(CaptureError::Open { name, source }),
    }
}

/// A capture whose packets are of a link type that is read, as far as its header tells.
fn checked(file: CaptureFile) -> Result<CaptureFile, CaptureError> {
    match file.link().filter(|link| !is_known(*link)) {
        None => Ok(file),
        Some(link) => {
            let reason = format!("packets of link type {} are not read", link_name(link));
            Err(CaptureError::Foreign { name: file.name().to_owned(), reason })
        }
    }
}

//! `--exe` held to the file that was meant. The probes know a file by its inode number alone, and two file systems may
//! share one; what `stat` calls a device is not what the kernel's own structures hold (btrfs and overlayfs show devices
//! that no super block has), so that only user space can compare: it looks at the process's `/proc/PID/exe` as it looked at
//! the path that was given.
//!
//! A process that runs another file is taken off the kernel's list, with the children it had by then, and what was seen of it
//! until then goes no further (counted, `events.other_executable`).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustc_hash::FxHashSet;

use crate::{
    config::Targets,
    event::{ConnId, Event, Process, ProcessChange},
};

/// Processes and connections remembered of each sort. Beyond that all are forgotten: what is asked anew is then a process
/// that was a target before and executes a file with a wanted inode number on another device, or a rest of a refused
/// connection.
const MAX_KNOWN: usize = 65_536;
/// Bytes of a name that the kernel compares (`comm` without its zero).
const COMM_LENGTH: usize = 15;

/// A file, wherever it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> Option<FileId> {
        let metadata = fs::metadata(path).ok()?;
        Some(FileId { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// What is to be done about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is a target's.
    Keep,
    /// It is not.
    Drop,
    /// It is not, and this process is to be taken off the kernel's list.
    Remove(u32),
}

/// Tells processes that run a file which was asked for from those that run one of the same inode number.
pub struct Executables {
    proc_root: PathBuf,
    wanted: Vec<FileId>,
    comms: Vec<Vec<u8>>,
    /// Targets whatever they execute. At most [`MAX_KNOWN`].
    targets: FxHashSet<u32>,
    /// Processes that are none. At most [`MAX_KNOWN`].
    refused: FxHashSet<u32>,
    /// Their connections. At most [`MAX_KNOWN`].
    refused_conns: FxHashSet<ConnId>,
}

impl Executables {
    /// For the paths among the targets; `pids` are targets already. `None`: no path names a file, so that there is nothing to
    /// compare.
    pub fn new(targets: &Targets, pids: &[u32]) -> Option<Executables> {
        Executables::at(Path::new("/proc"), targets, pids)
    }

    fn at(proc_root: &Path, targets: &Targets, pids: &[u32]) -> Option<Executables> {
        let wanted: Vec<FileId> = targets.exes.iter().filter_map(|exe| FileId::of(exe)).collect();
        let cut = |comm: &String| comm.as_bytes()[..comm.len().min(COMM_LENGTH)].to_vec();
        (!wanted.is_empty()).then(|| Executables {
            proc_root: proc_root.to_owned(),
            wanted,
            comms: targets.comms.iter().map(cut).collect(),
            targets: pids.iter().copied().collect(),
            refused: FxHashSet::default(),
            refused_conns: FxHashSet::default(),
        })
    }

    /// Says what to do about an event, in ring order.
    pub fn answer(&mut self, event: &Event) -> Answer {
        match event {
            Event::Process(process) => self.process(process),
            _ if self.refused.is_empty() && self.refused_conns.is_empty() => Answer::Keep,
            Event::ConnOpen(open) => self.conn(open.conn, open.pid),
            Event::Data(data) => self.conn(data.conn, data.pid),
            Event::Datagram(datagram) => self.conn(datagram.conn, datagram.pid),
            // What is inside of a connection is of whom it is.
            Event::TlsOpen(open) if self.refused_conns.contains(&open.carrier) => {
                insert(&mut self.refused_conns, open.conn);
                Answer::Drop
            }
            Event::TlsOpen(open) => self.conn(open.conn, open.pid),
            Event::FunctionEnter(enter) => self.process_of(enter.pid),
            Event::FunctionReturn(leave) => self.process_of(leave.pid),
            Event::Stack(stack) => self.process_of(stack.pid),
            Event::OffCpu(off) => self.process_of(off.pid),
            Event::ConnShut(shut) => self.conn(shut.conn, 0),
            Event::Retransmit(again) => self.conn(again.conn, 0),
            Event::ConnClose(close) => {
                if self.refused_conns.remove(&close.conn) {
                    Answer::Drop
                } else {
                    Answer::Keep
                }
            }
            _ => Answer::Keep,
        }
    }

    fn process_of(&self, pid: u32) -> Answer {
        if self.refused.contains(&pid) { Answer::Drop } else { Answer::Keep }
    }

    fn conn(&mut self, conn: ConnId, pid: u32) -> Answer {
        if self.refused.contains(&pid) {
            insert(&mut self.refused_conns, conn);
            Answer::Drop
        } else if self.refused_conns.contains(&conn) {
            Answer::Drop
        } else {
            Answer::Keep
        }
    }

    fn process(&mut self, process: &Process) -> Answer {
        let pid = process.pid;
        match process.change {
            ProcessChange::Start if self.refused.contains(&process.parent_pid) => self.refuse(pid),
            ProcessChange::Start => self.accept(pid),
            ProcessChange::Exec if self.targets.contains(&pid) => Answer::Keep,
            ProcessChange::Exec if self.is_named(&process.comm) || !self.runs_another(pid) => {
                self.accept(pid)
            }
            ProcessChange::Exec => self.refuse(pid),
            ProcessChange::Exit => {
                self.targets.remove(&pid);
                if self.refused.remove(&pid) { Answer::Drop } else { Answer::Keep }
            }
        }
    }

    fn accept(&mut self, pid: u32) -> Answer {
        self.refused.remove(&pid);
        insert(&mut self.targets, pid);
        Answer::Keep
    }

    fn refuse(&mut self, pid: u32) -> Answer {
        self.targets.remove(&pid);
        insert(&mut self.refused, pid);
        Answer::Remove(pid)
    }

    fn is_named(&self, comm: &[u8; 16]) -> bool {
        let length = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        self.comms.iter().any(|wanted| wanted == &comm[..length])
    }

    /// Whether a process runs a file that only shares its inode number with one that is wanted. What is gone, cannot be read or
    /// has executed something else since is believed: the probes saw the number.
    fn runs_another(&self, pid: u32) -> bool {
        let Some(runs) = FileId::of(&self.proc_root.join(format!("{pid}/exe"))) else { return false };
        !self.wanted.contains(&runs) && self.wanted.iter().any(|wanted| wanted.inode == runs.inode)
    }
}

fn insert<T: Eq + std::hash::Hash>(set: &mut FxHashSet<T>, value: T) {
    if set.len() >= MAX_KNOWN {
        set.clear();
    }
    set.insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{ConnClose, ConnOpen, Data},
        time::BootTime,
    };

    fn process(change: ProcessChange, pid: u32, parent_pid: u32, name: &str) -> Event {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        Event::Process(Process { time: BootTime(1), change, pid, parent_pid, exit_code: 0, comm })
    }

    fn data(conn: u64, pid: u32) -> Event {
        Event::Data(Data { conn: ConnId(conn), pid, ..Data::default() })
    }

    /// `--exe` names a file whose number another device has too; process 1 runs the right one, 2 the other, 3 something else.
    fn executables(comms: &[&str]) -> (tempfile::TempDir, Executables) {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = root.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let (right, other, third) = (file("right"), file("other"), file("third"));
        for (pid, exe) in [(1, &right), (2, &other), (3, &third)] {
            fs::create_dir(root.path().join(pid.to_string())).unwrap();
            std::os::unix::fs::symlink(exe, root.path().join(format!("{pid}/exe"))).unwrap();
        }
        let targets = Targets {
            exes: vec![right, "bare-name".into()],
            comms: comms.iter().map(|comm| (*comm).to_owned()).collect(),
            ..Targets::default()
        };
        let mut executables = Executables::at(root.path(), &targets, &[40]).unwrap();
        // As if `other` stood on another device under the wanted number.
        let numbered = FileId { device: u64::MAX, ..FileId::of(&other).unwrap() };
        executables.wanted.push(numbered);
        (root, executables)
    }

    #[test]
    fn another_file_of_the_same_number_is_refused_with_all_that_was_seen_of_it() {
        use ProcessChange::{Exec, Exit, Start};
        let (_root, mut executables) = executables(&[]);
        let mut answers = |event: Event| executables.answer(&event);
        assert_eq!(answers(process(Exec, 1, 0, "right")), Answer::Keep);
        assert_eq!(answers(process(Exec, 2, 0, "other")), Answer::Remove(2));
        let open = ConnOpen { conn: ConnId(20), pid: 2, ..ConnOpen::default() };
        assert_eq!(answers(Event::ConnOpen(open)), Answer::Drop);
        assert_eq!(answers(data(20, 2)), Answer::Drop);
        assert_eq!(answers(data(10, 1)), Answer::Keep);
        // Its child was followed before the kernel heard.
        assert_eq!(answers(process(Start, 5, 2, "other")), Answer::Remove(5));
        assert_eq!(answers(data(50, 5)), Answer::Drop);
        let close = |conn| Event::ConnClose(ConnClose { conn: ConnId(conn), ..ConnClose::default() });
        assert_eq!([answers(close(20)), answers(close(10))], [Answer::Drop, Answer::Keep]);
        assert_eq!(
            [answers(process(Exit, 2, 0, "")), answers(process(Exit, 1, 0, ""))],
            [Answer::Drop, Answer::Keep]
        );
        // The number is another process's now.
        assert_eq!(answers(data(21, 2)), Answer::Keep);
    }

    #[test]
    fn who_is_a_target_for_another_reason_stays_one() {
        use ProcessChange::{Exec, Start};
        let (_root, mut executables) = executables(&["other"]);
        // By its name.
        assert_eq!(executables.answer(&process(Exec, 2, 0, "other")), Answer::Keep);
        // As a child of a target, and as one that was a target from the start.
        let (_root, mut executables) = self::executables(&[]);
        assert_eq!(executables.answer(&process(Start, 2, 1, "x")), Answer::Keep);
        assert_eq!(executables.answer(&process(Exec, 2, 1, "x")), Answer::Keep);
        assert_eq!(executables.answer(&process(Exec, 40, 1, "x")), Answer::Keep);
        // What cannot be compared is believed.
        assert_eq!(executables.answer(&process(Exec, 3, 1, "x")), Answer::Keep);
        assert_eq!(executables.answer(&process(Exec, 99, 1, "x")), Answer::Keep);
    }

    #[test]
    fn without_a_path_there_is_nothing_to_compare() {
        let targets = Targets { exes: vec!["no-such-file".into()], ..Targets::default() };
        assert!(Executables::new(&targets, &[]).is_none());
        assert!(Executables::new(&Targets::default(), &[]).is_none());
    }
}

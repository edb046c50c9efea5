//! What a row of `events` is.

#[cfg(doc)]
use crate::event::Event;

/// What a row is. The number is what the column `kind` holds; numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Event::Data`].
    Data = 1,
    /// [`Event::ConnOpen`].
    ConnOpen = 2,
    /// [`Event::ConnShut`].
    ConnShut = 3,
    /// [`Event::ConnClose`].
    ConnClose = 4,
    /// [`Event::Process`].
    Process = 5,
    /// [`Event::Anchor`].
    Anchor = 6,
    /// [`Event::ProcessFacts`].
    ProcessFacts = 7,
    /// [`Event::Listening`].
    Listening = 8,
    /// [`Event::Counters`].
    Counters = 9,
    /// [`Event::Tick`].
    Tick = 10,
    /// [`Event::Loss`]: a hole of the recording that was replayed into this one.
    Loss = 11,
    /// [`Event::Datagram`].
    Datagram = 12,
    /// [`Event::TlsOpen`].
    TlsOpen = 13,
    /// [`Event::FunctionFacts`].
    FunctionFacts = 14,
    /// [`Event::FunctionEnter`].
    FunctionEnter = 15,
    /// [`Event::FunctionReturn`].
    FunctionReturn = 16,
    /// [`Event::Stack`].
    Stack = 17,
    /// [`Event::OffCpu`].
    OffCpu = 18,
    /// [`Event::Retransmit`].
    Retransmit = 19,
    /// State of the pipeline before the event of this ordinal. No event itself.
    Checkpoint = 32,
    /// Events that the recorder could not keep. No event itself.
    Hole = 33,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 21] = [
            Data,
            ConnOpen,
            ConnShut,
            ConnClose,
            Process,
            Anchor,
            ProcessFacts,
            Listening,
            Counters,
            Tick,
            Loss,
            Datagram,
            TlsOpen,
            FunctionFacts,
            FunctionEnter,
            FunctionReturn,
            Stack,
            OffCpu,
            Retransmit,
            Checkpoint,
            Hole,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

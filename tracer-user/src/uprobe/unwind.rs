//! How the caller of code is found: what `.eh_frame` says of each instruction, for exceptions to find their way.
//!
//! Of the rules that the format has those are known that compilers write for functions; an expression (in the linker's stubs, around signals) ends a walk.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian, Pointer,
    RegisterRule, UnwindContext, UnwindSection as _, X86_64,
};
use object::elf::PT_GNU_EH_FRAME;

use super::elf::Elf;

/// Bytes of tables that are read: Chrome's are some 12 MB.
const MAX_TABLES: u64 = 64 << 20;

/// How the caller is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// By the frame pointer: it stands where that points to, the return address above it.
    FramePointer,
    /// Below a place on the stack the return address.
    Below(Place),
    /// There is none: a thread begins here.
    None,
    /// The tables say nothing of this code, or something that is not known here.
    Unknown,
}

/// Where the stack pointer is when this function has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// By the frame pointer, or by the stack pointer.
    pub by_frame: bool,
    /// What is added to it.
    pub offset: i64,
    /// Where from there the caller's frame pointer was saved; `None`: it is in its register.
    pub saved_frame: Option<i64>,
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = FrameDescriptionEntry<Slice<'a>>;

/// The tables of a file.
#[derive(Debug)]
pub struct Tables {
    frames: Vec<u8>,
    header: Vec<u8>,
    bases: BaseAddresses,
}

impl Tables {
    /// `None`: it has none.
    pub fn of(elf: &Elf<'_>) -> Option<Tables> {
        let segment = elf.segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME)?;
        let header = elf.memory(segment.address, segment.size.min(MAX_TABLES));
        let bases = BaseAddresses::default().set_eh_frame_hdr(segment.address);
        let parsed = EhFrameHdr::new(&header, LittleEndian).parse(&bases, 8).ok()?;
        let Pointer::Direct(address) = parsed.eh_frame_ptr() else { return None };
        let section = elf.section(".eh_frame").filter(|section| section.address == address);
        let size = section.map_or(MAX_TABLES, |section| section.size.min(MAX_TABLES));
        let frames = elf.memory(address, size);
        Some(Tables { frames, header, bases: bases.set_eh_frame(address) })
    }

    /// How code at an address finds its caller.
    pub fn caller(&self, address: u64) -> Caller {
        self.look_up(address).unwrap_or(Caller::Unknown)
    }

    /// The function that an address is in: where it begins, and its bytes.
    pub fn function(&self, address: u64) -> Option<(u64, u64)> {
        let frames = EhFrame::new(&self.frames, LittleEndian);
        let entry = self.entry(&frames, address)?;
        entry.contains(address).then(|| (entry.initial_address(), entry.len()))
    }

    fn entry<'a>(&'a self, frames: &EhFrame<Slice<'a>>, address: u64) -> Option<Entry<'a>> {
        let header = EhFrameHdr::new(&self.header, LittleEndian).parse(&self.bases, 8).ok()?;
        let found = header.table()?.fde_for_address(frames, &self.bases, address, |frames, bases, offset| {
            frames.cie_from_offset(bases, offset)
        });
        found.ok()
    }

    fn look_up(&self, address: u64) -> Option<Caller> {
        let frames = EhFrame::new(&self.frames, LittleEndian);
        let entry = self.entry(&frames, address)?;
        let mut context = UnwindContext::new();
        let row = entry.unwind_info_for_address(&frames, &self.bases, &mut context, address).ok()?;
        if row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
            return Some(Caller::None);
        }
        if row.register(X86_64::RA) != Some(RegisterRule::Offset(-8)) {
            return None;
        }
        let saved_frame = match row.register(X86_64::RBP) {
            Some(RegisterRule::Offset(offset)) => Some(offset),
            None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => None,
            _ => return None,
        };
        let (by_frame, offset) = match *row.cfa() {
            CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => (true, offset),
            CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => (false, offset),
            _ => return None,
        };
        Some(match (by_frame, offset, saved_frame) {
            (true, 16, Some(-16)) => Caller::FramePointer,
            _ => Caller::Below(Place { by_frame, offset, saved_frame }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_tables_are_survived(
            frames in prop::collection::vec(any::<u8>(), 0..200),
            header in prop::collection::vec(any::<u8>(), 0..100),
            address in any::<u64>(),
        ) {
            let bases = BaseAddresses::default().set_eh_frame_hdr(64).set_eh_frame(128);
            Tables { frames, header, bases }.caller(address);
        }
    }
}

//! How the caller of code is found: what `.eh_frame` says of each instruction, for exceptions to find their way.
//!
//! Only asked whether a function keeps a frame pointer where it calls. The rest of the tables is what a walk through code without frame pointers needs, with a
//! copy of the stack: there is none yet.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, LittleEndian, Pointer, RegisterRule, UnwindContext,
    UnwindSection as _, X86_64,
};
use object::elf::PT_GNU_EH_FRAME;

use super::elf::Elf;

/// Bytes of tables that are read: Chrome's are some 12 MB.
const MAX_TABLES: u64 = 64 << 20;

/// How the caller is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// By the frame pointer.
    FramePointer,
    /// In another way.
    Otherwise,
    /// There is none: a thread begins here.
    None,
    /// The tables say nothing of this code.
    Unknown,
}

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

    fn look_up(&self, address: u64) -> Option<Caller> {
        let frames = EhFrame::new(&self.frames, LittleEndian);
        let header = EhFrameHdr::new(&self.header, LittleEndian).parse(&self.bases, 8).ok()?;
        let entry = header
            .table()?
            .fde_for_address(&frames, &self.bases, address, |frames, bases, offset| {
                frames.cie_from_offset(bases, offset)
            })
            .ok()?;
        let mut context = UnwindContext::new();
        let row = entry.unwind_info_for_address(&frames, &self.bases, &mut context, address).ok()?;
        if row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
            return Some(Caller::None);
        }
        let is_above = matches!(row.cfa(), CfaRule::RegisterAndOffset { register: X86_64::RBP, offset: 16 });
        let is_saved = row.register(X86_64::RBP) == Some(RegisterRule::Offset(-16));
        Some(if is_above && is_saved { Caller::FramePointer } else { Caller::Otherwise })
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

//! What the columns of `events` do not hold: the `payload` of the kinds other than `data`, little-endian or JSON.

use bytes::{Buf as _, BufMut as _, Bytes};
use tracer_ebpf as abi;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::event::{ProcessChange, Role};

/// A blob that does not hold what its kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadBlob;

/// The part of an open that has no column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenBlob {
    pub role: Role,
    pub netns: u32,
    pub inode: u64,
    pub tuple: abi::Tuple,
    pub unix_path: Bytes,
}

impl OpenBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.role {
            Role::Unknown => abi::ROLE_UNKNOWN,
            Role::Client => abi::ROLE_CLIENT,
            Role::Server => abi::ROLE_SERVER,
        });
        out.put_u32_le(self.netns);
        out.put_u64_le(self.inode);
        out.put_slice(self.tuple.as_bytes());
        out.put_slice(&self.unix_path);
    }

    pub(super) fn read(mut bytes: Bytes) -> Result<OpenBlob, BadBlob> {
        let role = match bytes.try_get_u8().map_err(|_| BadBlob)? {
            abi::ROLE_UNKNOWN => Role::Unknown,
            abi::ROLE_CLIENT => Role::Client,
            abi::ROLE_SERVER => Role::Server,
            _ => return Err(BadBlob),
        };
        let netns = bytes.try_get_u32_le().map_err(|_| BadBlob)?;
        let inode = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        let (tuple, _) = abi::Tuple::read_from_prefix(&bytes).map_err(|_| BadBlob)?;
        bytes.advance(size_of::<abi::Tuple>());
        Ok(OpenBlob { role, netns, inode, tuple, unix_path: bytes })
    }
}

/// The part of a close that has no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseBlob {
    pub position: [u64; 2],
    pub reason: u32,
    pub n_refused: u32,
}

impl CloseBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.position[0]);
        out.put_u64_le(self.position[1]);
        out.put_u32_le(self.reason);
        out.put_u32_le(self.n_refused);
    }

    pub(super) fn read(mut bytes: &[u8]) -> Result<CloseBlob, BadBlob> {
        if bytes.len() != 24 {
            return Err(BadBlob);
        }
        Ok(CloseBlob {
            position: [bytes.get_u64_le(), bytes.get_u64_le()],
            reason: bytes.get_u32_le(),
            n_refused: bytes.get_u32_le(),
        })
    }
}

/// The part of a process event that has no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessBlob {
    pub change: ProcessChange,
    pub parent_pid: u32,
    pub exit_code: u32,
}

impl ProcessBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.change {
            ProcessChange::Start => 0,
            ProcessChange::Exec => 1,
            ProcessChange::Exit => 2,
        });
        out.put_u32_le(self.parent_pid);
        out.put_u32_le(self.exit_code);
    }

    pub(super) fn read(mut bytes: &[u8]) -> Result<ProcessBlob, BadBlob> {
        if bytes.len() != 9 {
            return Err(BadBlob);
        }
        Ok(ProcessBlob {
            change: match bytes.get_u8() {
                0 => ProcessChange::Start,
                1 => ProcessChange::Exec,
                2 => ProcessChange::Exit,
                _ => return Err(BadBlob),
            },
            parent_pid: bytes.get_u32_le(),
            exit_code: bytes.get_u32_le(),
        })
    }
}

//! A parser of the kernel's own type information (BTF): where a member lies, what an enum's name is worth, which
//! tracepoints exist and with which arguments.
//!
//! The format is described in the kernel's `Documentation/bpf/btf.rst`. Only what the offset resolver and `doctor`
//! need is kept: no types are built, every question is answered from the blob. One pass finds where each type
//! starts and indexes the named ones by a hash (a sorted array: two duplicates of a name stay in blob order).
//! All input is hostile: every read is checked, chains and nesting are bounded, and nothing panics.

use std::{fmt, hash::Hasher as _, path::Path};

use rustc_hash::FxHasher;

/// Where the running kernel shows its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Pointers of the only architecture that is traced (x86-64).
const POINTER_SIZE: u32 = 8;
/// Longest chain of typedefs and qualifiers followed. Real ones stay below 10; a cycle ends here.
const MAX_CHAIN: usize = 64;
/// Members looked at by one question, anonymous ones included. The largest real structs hold a few hundred.
const MAX_MEMBERS_VISITED: u32 = 100_000;
/// Nesting of anonymous structs and unions entered. Real ones stay below 8.
const MAX_NESTING: usize = 32;

const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why a blob is refused.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// It could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is not BTF of this machine's byte order.
    #[error("not BTF: {0}")]
    Foreign(&'static str),
    /// It ends early or contradicts itself.
    #[error("broken BTF: {what} at byte {at}")]
    Broken {
        /// What is wrong.
        what: &'static str,
        /// Where in the blob.
        at: usize,
    },
    /// A kind this parser does not know, so that what follows cannot be found.
    #[error("BTF kind {kind} is not known (type {id})")]
    UnknownKind {
        /// The kind.
        kind: u32,
        /// The type's number.
        id: u32,
    },
}

/// Where a member of a struct or union lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Byte in which it begins, from the start of the outermost struct.
    pub offset_bytes: u32,
    /// Its size in bytes; of a bitfield the size of its declared type; 0 for a flexible array.
    pub size: u32,
    /// Bits of a bitfield; 0 for an ordinary member.
    pub bitfield_bits: u32,
    /// Bit in which it begins, from the start of the outermost struct.
    pub offset_bits: u32,
}

/// Parsed BTF of a kernel. Owns the blob (5 to 7 MB) and about 1.5 MB of index.
pub struct KernelBtf {
    blob: Vec<u8>,
    /// Bounds of the string section in the blob.
    strings: (usize, usize),
    /// Byte at which type `id` starts; entry 0 (void) is never used.
    starts: Vec<u32>,
    /// (hash of namespace and name, id), sorted.
    index: Vec<(u64, u32)>,
}

impl fmt::Debug for KernelBtf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelBtf").field("bytes", &self.blob.len()).field("types", &self.n_types()).finish()
    }
}

/// C's name spaces: a struct, a typedef and a function of one name are three things.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Composite,
    Enum,
    Typedef,
    Func,
}

impl Space {
    fn of(kind: u32) -> Option<Space> {
        match kind {
            KIND_STRUCT | KIND_UNION => Some(Space::Composite),
            KIND_ENUM | KIND_ENUM64 => Some(Space::Enum),
            KIND_TYPEDEF => Some(Space::Typedef),
            KIND_FUNC => Some(Space::Func),
            _ => None,
        }
    }

    fn hash(self, name: &[u8]) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write_u8(self as u8);
        hasher.write(name);
        hasher.finish()
    }
}

/// The fixed part of a type.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    vlen: u32,
    /// With it, a struct's member offsets carry a bitfield size; an enum's values are signed.
    kind_flag: bool,
    /// Size, or the type referred to.
    size_or_type: u32,
    /// Byte behind the fixed part.
    body: usize,
}

impl KernelBtf {
    /// Reads the running kernel's BTF.
    pub fn running() -> Result<KernelBtf, BtfError> {
        KernelBtf::read(Path::new(KERNEL_BTF))
    }

    /// Reads a blob from a file.
    pub fn read(path: &Path) -> Result<KernelBtf, BtfError> {
        let blob = std::fs::read(path)
            .map_err(|source| BtfError::Read { path: path.display().to_string(), source })?;
        KernelBtf::parse(blob)
    }

    /// Parses a blob.
    pub fn parse(blob: Vec<u8>) -> Result<KernelBtf, BtfError> {
        let short = BtfError::Broken { what: "header cut off", at: blob.len() };
        if blob.len() < 24 {
            return Err(short);
        }
        match u16::from_le_bytes([blob[0], blob[1]]) {
            MAGIC => {}
            magic if magic == MAGIC.swap_bytes() => return Err(BtfError::Foreign("the other byte order")),
            _ => return Err(BtfError::Foreign("no magic number")),
        }
        if blob[2] != 1 {
            return Err(BtfError::Foreign("a version other than 1"));
        }
        let field = |at: usize| u32_at(&blob, at).map(|value| value as usize);
        // All five were checked to be there above.
        let [Some(header), Some(type_off), Some(type_len), Some(str_off), Some(str_len)] =
            [4, 8, 12, 16, 20].map(field)
        else {
            return Err(short);
        };
        let section = |off: usize, len: usize, what| {
            let start = header.checked_add(off);
            let end = start.and_then(|start| start.checked_add(len));
            match (start, end) {
                (Some(start), Some(end)) if header >= 24 && end <= blob.len() => Ok((start, end)),
                _ => Err(BtfError::Broken { what, at: start.unwrap_or(usize::MAX) }),
            }
        };
        let (mut at, types_end) = section(type_off, type_len, "type section outside the blob")?;
        let strings = section(str_off, str_len, "string section outside the blob")?;
        // Names end at a NUL: with one at the very end no name can run out of the section.
        if strings.0 == strings.1 || blob[strings.1 - 1] != 0 {
            return Err(BtfError::Broken { what: "string section without a final NUL", at: strings.1 });
        }

        // Kernels of 2026 and later describe the length of each kind, so that unknown ones can be passed over.
        let layout = match (field(24), field(28)) {
            (Some(off), Some(len)) if header >= 32 && len > 0 => {
                section(off, len, "layout section outside the blob")?
            }
            _ => (0, 0),
        };

        let mut btf = KernelBtf { strings, starts: vec![0], index: Vec::new(), blob };
        // A type takes 24 bytes on average in a kernel.
        btf.starts.reserve(type_len / 24);
        btf.index.reserve(type_len / 48);
        while at < types_end {
            let id = btf.starts.len() as u32;
            if types_end - at < 12 {
                return Err(BtfError::Broken { what: "type cut off", at });
            }
            let kind_type = btf.type_at(at).ok_or(BtfError::Broken { what: "type cut off", at })?;
            let body = body_length(kind_type.kind, kind_type.vlen as usize)
                .or_else(|| btf.described_length(layout, kind_type))
                .ok_or(BtfError::UnknownKind { kind: kind_type.kind, id })?;
            if types_end - kind_type.body < body {
                return Err(BtfError::Broken { what: "type cut off", at });
            }
            btf.starts.push(at as u32);
            if let Some(space) = Space::of(kind_type.kind)
                && kind_type.name != 0
            {
                let name = btf.string(kind_type.name);
                let name = name.ok_or(BtfError::Broken { what: "name outside the string section", at })?;
                btf.index.push((space.hash(name), id));
            }
            at = kind_type.body + body;
        }
        btf.index.sort_unstable();
        Ok(btf)
    }

    /// Number of types.
    pub fn n_types(&self) -> usize {
        self.starts.len() - 1
    }

    /// Bytes of the blob.
    pub fn n_bytes(&self) -> usize {
        self.blob.len()
    }

    /// Where the member `path` of the struct or union `name` lies. The path goes through named members by dots
    /// (`__sk_common.skc_dport`) and through anonymous structs and unions by itself; it does not follow pointers.
    pub fn member(&self, name: &str, path: &str) -> Option<Member> {
        let mut id = self.composite(name)?;
        let mut fuel = MAX_MEMBERS_VISITED;
        let mut offset_bits = 0u32;
        let mut parts = path.split('.').peekable();
        loop {
            let part = parts.next()?;
            let (type_id, bit, bitfield_bits) = self.member_of(id, part.as_bytes(), 0, &mut fuel)?;
            offset_bits = offset_bits.checked_add(bit)?;
            if parts.peek().is_none() {
                let size = self.size_of_type(type_id, 0)?;
                return Some(Member { offset_bytes: offset_bits / 8, size, bitfield_bits, offset_bits });
            }
            id = self.strip(type_id)?;
        }
    }

    /// Size in bytes of the struct or union `name`.
    pub fn size_of(&self, name: &str) -> Option<u32> {
        self.composite(name).and_then(|id| self.ty(id)).map(|ty| ty.size_or_type)
    }

    /// Value of `value_name` in the enum `name`; with an empty `name` in any enum (most of the kernel's are anonymous).
    pub fn enum_value(&self, name: &str, value_name: &str) -> Option<i64> {
        if !name.is_empty() {
            return self
                .named(Space::Enum, name)
                .find_map(|id| self.value_in(self.ty(id)?, value_name.as_bytes()));
        }
        (1..self.starts.len() as u32)
            .filter_map(|id| self.ty(id))
            .filter(|ty| matches!(ty.kind, KIND_ENUM | KIND_ENUM64))
            .find_map(|ty| self.value_in(ty, value_name.as_bytes()))
    }

    /// Number of parameters of the function (pointer) type `name`. A tracepoint's `btf_trace_…` begins with one
    /// `void *` that its programs do not see: [`KernelBtf::tracepoint`] leaves that one out.
    pub fn typedef_param_count(&self, name: &str) -> Option<usize> {
        self.typedef_proto(name).map(|proto| proto.vlen as usize)
    }

    /// The arguments that programs on the tracepoint `name` get, as C types (`sock*`, `int`), or `None` when the
    /// kernel does not have it.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        let proto = self.typedef_proto(&format!("btf_trace_{name}"))?;
        let params = (1..proto.vlen as usize).map(|i| u32_at(&self.blob, proto.body + i * 8 + 4));
        params.map(|type_id| type_id.map(|type_id| self.type_name(type_id))).collect()
    }

    /// Whether the kernel has a function `name` that its BTF describes.
    pub fn func_exists(&self, name: &str) -> bool {
        self.named(Space::Func, name).next().is_some()
    }

    /// Number of parameters of the function `name`.
    pub fn func_param_count(&self, name: &str) -> Option<usize> {
        let func = self.named(Space::Func, name).next().and_then(|id| self.ty(id))?;
        let proto = self.ty(func.size_or_type)?;
        (proto.kind == KIND_FUNC_PROTO).then_some(proto.vlen as usize)
    }

    /// Number of the function `name` among the types: what a program that attaches to it gives at load.
    pub fn func_id(&self, name: &str) -> Option<u32> {
        self.named(Space::Func, name).next()
    }

    /// Number of the typedef `name` among the types: what a tracepoint program gives at load.
    pub fn typedef_id(&self, name: &str) -> Option<u32> {
        self.named(Space::Typedef, name).next()
    }

    /// The first struct or union of this name that has members; several may exist (a driver's private one).
    fn composite(&self, name: &str) -> Option<u32> {
        let mut all = self.named(Space::Composite, name);
        let first = all.next()?;
        let has_members = |&id: &u32| self.ty(id).is_some_and(|ty| ty.vlen > 0);
        if has_members(&first) { Some(first) } else { all.find(has_members).or(Some(first)) }
    }

    /// The prototype behind a typedef of a function or of a pointer to one.
    fn typedef_proto(&self, name: &str) -> Option<Type> {
        let mut ty = self.ty(self.strip(self.typedef_id(name)?)?)?;
        if ty.kind == KIND_PTR {
            ty = self.ty(self.strip(ty.size_or_type)?)?;
        }
        (ty.kind == KIND_FUNC_PROTO).then_some(ty)
    }

    /// All types of one name, in blob order.
    fn named(&self, space: Space, name: &str) -> impl Iterator<Item = u32> + '_ {
        let hash = space.hash(name.as_bytes());
        let name = name.as_bytes().to_vec();
        let from = self.index.partition_point(|&(other, _)| other < hash);
        self.index[from..].iter().take_while(move |&&(other, _)| other == hash).map(|&(_, id)| id).filter(
            move |&id| {
                // Two names may share a hash.
                self.ty(id).is_some_and(|ty| {
                    Space::of(ty.kind) == Some(space) && self.string(ty.name) == Some(name.as_slice())
                })
            },
        )
    }

    /// Type, bit offset and bitfield bits of a member by name, anonymous members entered.
    fn member_of(&self, id: u32, name: &[u8], nesting: usize, fuel: &mut u32) -> Option<(u32, u32, u32)> {
        let ty = self.ty(id)?;
        if !matches!(ty.kind, KIND_STRUCT | KIND_UNION) || nesting > MAX_NESTING {
            return None;
        }
        for i in 0..ty.vlen as usize {
            *fuel = fuel.checked_sub(1)?;
            let at = ty.body + i * 12;
            let member_name = u32_at(&self.blob, at)?;
            let member_type = u32_at(&self.blob, at + 4)?;
            let offset = u32_at(&self.blob, at + 8)?;
            let (bit, bitfield_bits) =
                if ty.kind_flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            if member_name == 0 {
                let inner = self.strip(member_type)?;
                if let Some((found, inner_bit, bits)) = self.member_of(inner, name, nesting + 1, fuel) {
                    return Some((found, bit.checked_add(inner_bit)?, bits));
                }
            } else if self.string(member_name) == Some(name) {
                return Some((member_type, bit, bitfield_bits));
            }
        }
        None
    }

    fn value_in(&self, ty: Type, name: &[u8]) -> Option<i64> {
        let wide = ty.kind == KIND_ENUM64;
        let step = if wide { 12 } else { 8 };
        (0..ty.vlen as usize).map(|i| ty.body + i * step).find_map(|at| {
            if self.string(u32_at(&self.blob, at)?) != Some(name) {
                return None;
            }
            let low = u32_at(&self.blob, at + 4)?;
            Some(match wide {
                true => (u64::from(u32_at(&self.blob, at + 8)?) << 32 | u64::from(low)) as i64,
                // The flag marks signed values; without it 5.10 to 5.19 still store −1 as 32 bits of ones.
                false if ty.kind_flag => i64::from(low as i32),
                false => i64::from(low),
            })
        })
    }

    /// Follows typedefs and qualifiers.
    fn strip(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_CHAIN {
            let ty = self.ty(id)?;
            match ty.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = ty.size_or_type
                }
                _ => return Some(id),
            }
        }
        None
    }

    fn size_of_type(&self, id: u32, nesting: usize) -> Option<u32> {
        if nesting > MAX_NESTING {
            return None;
        }
        let ty = self.ty(self.strip(id)?)?;
        match ty.kind {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => {
                Some(ty.size_or_type)
            }
            KIND_PTR => Some(POINTER_SIZE),
            KIND_ARRAY => {
                let element = u32_at(&self.blob, ty.body)?;
                let n = u32_at(&self.blob, ty.body + 8)?;
                self.size_of_type(element, nesting + 1)?.checked_mul(n)
            }
            _ => None,
        }
    }

    /// A type as C writes it, without qualifiers: `sock*`, `unsigned int`, `void*`.
    fn type_name(&self, mut id: u32) -> String {
        let mut stars = String::new();
        for _ in 0..MAX_CHAIN {
            let Some(ty) = self.ty(id) else {
                return format!("void{stars}");
            };
            match ty.kind {
                KIND_PTR => stars.push('*'),
                KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {}
                _ => {
                    let name = self.string(ty.name).filter(|name| !name.is_empty()).unwrap_or(b"?");
                    return format!("{}{stars}", String::from_utf8_lossy(name));
                }
            }
            id = ty.size_or_type;
        }
        format!("?{stars}")
    }

    fn ty(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.type_at(*self.starts.get(id as usize)? as usize)
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = u32_at(&self.blob, at + 4)?;
        Some(Type {
            name: u32_at(&self.blob, at)?,
            kind: info >> 24 & 0x7f,
            vlen: info & 0x00ff_ffff,
            kind_flag: info >> 31 != 0,
            size_or_type: u32_at(&self.blob, at + 8)?,
            body: at + 12,
        })
    }

    /// Bytes behind the fixed part of a type by the blob's own layout section: per kind one byte for the singular
    /// element, one for each of `vlen` elements, two of flags.
    fn described_length(&self, layout: (usize, usize), ty: Type) -> Option<usize> {
        let entry = self.blob.get(layout.0..layout.1)?.get(ty.kind as usize * 4..)?;
        let (info, element) = (*entry.first()?, *entry.get(1)?);
        Some(usize::from(info) + usize::from(element) * ty.vlen as usize)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let (start, end) = self.strings;
        let rest = self.blob.get(start.checked_add(offset as usize)?..end)?;
        rest.iter().position(|&byte| byte == 0).map(|n| &rest[..n])
    }
}

/// Bytes behind the fixed part of a type, or `None` for an unknown kind.
fn body_length(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => vlen * 12,
        KIND_ENUM | KIND_FUNC_PROTO => vlen * 8,
        KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_FUNC
        | KIND_FLOAT | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

fn u32_at(blob: &[u8], at: usize) -> Option<u32> {
    let bytes = blob.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::btf_blob::Blob;

    fn at(offset_bytes: u32, size: u32) -> Member {
        Member { offset_bytes, size, bitfield_bits: 0, offset_bits: offset_bytes * 8 }
    }

    /// A struct with all that a kernel's have: nesting, anonymous members, qualifiers, arrays, a bitfield, and a
    /// namesake without members before it.
    fn sample() -> Blob {
        let mut blob = Blob::new();
        let u16_type = blob.int("unsigned short", 2);
        let u32_type = blob.int("unsigned int", 4);
        let be16 = blob.alias(8, "__be16", u16_type);
        let constant = blob.alias(10, "", be16);
        let volatile = blob.alias(9, "", constant);
        let pair = blob.structure("", 4, &[("dport", volatile, 0, 0), ("num", u16_type, 16, 0)]);
        let ports = blob.union("", 4, &[("portpair", u32_type, 0, 0), ("", pair, 0, 0)]);
        let pointer = blob.pointer(0);
        let common = blob.structure("common", 16, &[("hash", pointer, 0, 0), ("", ports, 64, 0)]);
        let name = blob.array(u16_type, 8);
        let flexible = blob.array(u16_type, 0);
        blob.structure("sock", 0, &[]);
        blob.structure(
            "sock",
            64,
            &[
                ("__common", common, 64, 0),
                ("kind", u32_type, 192 + 5, 3),
                ("name", name, 224, 0),
                ("tail", flexible, 512, 0),
            ],
        );
        let sock = 12;
        let konst = blob.alias(10, "", sock);
        let sock_pointer = blob.pointer(konst);
        blob.tracepoint("sock_moved", &[sock_pointer, u32_type]);
        let prototype = blob.prototype(&[sock_pointer, u32_type, u32_type]);
        blob.function("tcp_move", prototype);
        blob.enumeration("", true, &[("LESS", -1), ("MORE", 7)]);
        blob.enumeration("direction", false, &[("LEFT", 0), ("ALL", -1)]);
        blob.enumeration64("wide", &[("FAR", -5), ("BIG", 0x1_0000_0002)]);
        blob
    }

    fn parsed() -> KernelBtf {
        KernelBtf::parse(sample().finish()).unwrap()
    }

    #[test]
    fn members_are_found_through_names_anonymous_unions_and_qualifiers() {
        let btf = parsed();
        assert_eq!(btf.member("sock", "__common.hash"), Some(at(8, 8)));
        assert_eq!(btf.member("sock", "__common.dport"), Some(at(16, 2)));
        assert_eq!(btf.member("sock", "__common.num"), Some(at(18, 2)));
        assert_eq!(btf.member("common", "num"), Some(at(10, 2)));
        assert_eq!(btf.member("sock", "name"), Some(at(28, 16)));
        assert_eq!(btf.member("sock", "tail"), Some(at(64, 0)));
        assert_eq!(btf.size_of("sock"), Some(64), "the namesake without members is passed over");
    }

    #[test]
    fn what_is_not_there_is_none() {
        let btf = parsed();
        for (name, path) in [
            ("sock", "nothing"),
            ("sock", ""),
            ("sock", "__common"),
            ("sock", "__common."),
            ("sock", "name.x"),
            ("sock", "num"),
            ("", ""),
            ("nothing", "x"),
            ("__be16", "x"),
        ] {
            let found = btf.member(name, path);
            // The one that exists: a struct may itself be asked for.
            assert_eq!(found.is_some(), path == "__common", "{name}.{path}: {found:?}");
        }
        assert_eq!(btf.tracepoint("tcp_move"), None);
        assert_eq!(btf.enum_value("direction", "RIGHT"), None);
        assert!(!btf.func_exists("sock_moved"));
    }

    #[test]
    fn a_bitfield_shows_its_bits() {
        let member = parsed().member("sock", "kind").unwrap();
        assert_eq!(member, Member { offset_bytes: 24, size: 4, bitfield_bits: 3, offset_bits: 197 });
    }

    #[test]
    fn enum_values_keep_sign_and_width() {
        let btf = parsed();
        assert_eq!(btf.enum_value("", "LESS"), Some(-1));
        assert_eq!(btf.enum_value("", "MORE"), Some(7));
        assert_eq!(btf.enum_value("direction", "ALL"), Some(0xffff_ffff), "unsigned without the flag");
        assert_eq!(btf.enum_value("wide", "FAR"), Some(-5));
        assert_eq!(btf.enum_value("wide", "BIG"), Some(0x1_0000_0002));
        assert_eq!(btf.enum_value("direction", "MORE"), None, "another enum's value");
    }

    #[test]
    fn tracepoints_and_functions_give_their_arguments() {
        let btf = parsed();
        assert_eq!(btf.tracepoint("sock_moved").unwrap(), ["sock*", "unsigned int"]);
        assert_eq!(btf.typedef_param_count("btf_trace_sock_moved"), Some(3));
        assert_eq!(btf.func_param_count("tcp_move"), Some(3));
        assert!(btf.func_exists("tcp_move") && !btf.func_exists("tcp_mov"));
        assert_eq!(btf.tracepoint("sock_move"), None);
    }

    #[test]
    fn cycles_of_typedefs_and_of_anonymous_members_end() {
        let mut blob = Blob::new();
        let (first, second) = (1, 2);
        blob.alias(8, "loop", second);
        blob.alias(10, "", first);
        // A union of three anonymous copies of itself: 3 to the nesting limit without a budget.
        let me = 3;
        blob.union("me", 8, &[("", me, 0, 0), ("", me, 0, 0), ("", me, 0, 0)]);
        let array = 4;
        blob.array(array, 2);
        blob.structure("holder", 8, &[("array", array, 0, 0), ("looped", first, 0, 0)]);
        let btf = KernelBtf::parse(blob.finish()).unwrap();
        assert_eq!(btf.member("me", "x"), None);
        assert_eq!(btf.member("holder", "array"), None);
        assert_eq!(btf.member("holder", "looped"), None);
        assert_eq!(btf.typedef_param_count("loop"), None);
    }

    #[test]
    fn an_unknown_kind_is_passed_over_when_the_blob_describes_it_and_refused_otherwise() {
        let mut blob = sample();
        blob.raw("", 40, false, 2, 0, &[1, 2, 3, 4, 5]);
        blob.structure("behind", 24, &[]);
        let refused = KernelBtf::parse(blob.finish()).unwrap_err();
        assert!(matches!(refused, BtfError::UnknownKind { kind: 40, .. }), "{refused}");
        let mut layout = [(0, 0); 41];
        layout[40] = (4, 8);
        let btf = KernelBtf::parse(blob.finish_with_layout(&layout)).unwrap();
        assert_eq!(btf.size_of("behind"), Some(24));
    }

    #[test]
    fn every_truncation_is_an_error_and_every_flipped_bit_is_survived() {
        let blob = sample().finish();
        for length in 0..blob.len() {
            assert!(KernelBtf::parse(blob[..length].to_vec()).is_err(), "cut at {length}");
        }
        for bit in 0..blob.len() * 8 {
            let mut broken = blob.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            if let Ok(btf) = KernelBtf::parse(broken) {
                // Whatever it says, it says it without a panic.
                let _ = btf.member("sock", "__common.dport");
                let _ = btf.member("sock", "name");
                let _ = btf.tracepoint("sock_moved");
                let _ = btf.func_param_count("tcp_move");
                let _ = btf.enum_value("", "BIG");
            }
        }
    }

    #[test]
    fn foreign_blobs_are_named_as_such() {
        let mut swapped = sample().finish();
        swapped.swap(0, 1);
        assert_eq!(KernelBtf::parse(swapped).unwrap_err().to_string(), "not BTF: the other byte order");
        assert_eq!(KernelBtf::parse(vec![7; 64]).unwrap_err().to_string(), "not BTF: no magic number");
    }

    #[test]
    fn this_hosts_kernel_answers() {
        let btf = KernelBtf::running().unwrap();
        assert!(btf.n_types() > 10_000);
        assert_eq!(btf.tracepoint("inet_sock_set_state").unwrap(), ["sock*", "int", "int"]);
        assert_eq!(btf.enum_value("", "TCP_ESTABLISHED"), Some(1));
        assert_eq!(btf.func_param_count("tcp_sendmsg"), Some(3));
        assert_eq!(btf.member("sock", "__sk_common.skc_dport"), Some(at(12, 2)));
    }
}

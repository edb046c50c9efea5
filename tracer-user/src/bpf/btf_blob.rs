//! An encoder of small BTF blobs for tests: structs at chosen offsets, unions, bitfields, enums, typedefs, functions.

/// Builds a blob type by type; each method returns the new type's number.
#[derive(Default)]
pub(crate) struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
    n_types: u32,
}

/// A member: name (empty = anonymous), type, offset in bits, bits of a bitfield (0 = none).
pub(crate) type MemberOf<'a> = (&'a str, u32, u32, u32);

impl Blob {
    pub(crate) fn new() -> Blob {
        Blob { strings: vec![0], ..Blob::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Any type, with its body as words.
    pub(crate) fn raw(
        &mut self,
        name: &str,
        kind: u32,
        flag: bool,
        vlen: u32,
        size: u32,
        body: &[u32],
    ) -> u32 {
        let name = self.name(name);
        for word in [name, u32::from(flag) << 31 | kind << 24 | vlen, size].iter().chain(body) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.n_types += 1;
        self.n_types
    }

    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.raw(name, 1, false, 0, size, &[size * 8])
    }

    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.raw("", 2, false, 0, to, &[])
    }

    pub(crate) fn array(&mut self, element: u32, n: u32) -> u32 {
        self.raw("", 3, false, 0, 0, &[element, element, n])
    }

    pub(crate) fn composite(&mut self, kind: u32, name: &str, size: u32, members: &[MemberOf<'_>]) -> u32 {
        let flag = members.iter().any(|member| member.3 != 0);
        let body: Vec<u32> = members
            .iter()
            .flat_map(|&(name, type_id, bit, bits)| {
                [self.name(name), type_id, if flag { bits << 24 | bit } else { bit }]
            })
            .collect();
        self.raw(name, kind, flag, members.len() as u32, size, &body)
    }

    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[MemberOf<'_>]) -> u32 {
        self.composite(4, name, size, members)
    }

    pub(crate) fn union(&mut self, name: &str, size: u32, members: &[MemberOf<'_>]) -> u32 {
        self.composite(5, name, size, members)
    }

    pub(crate) fn enumeration(&mut self, name: &str, signed: bool, values: &[(&str, i32)]) -> u32 {
        let body: Vec<u32> =
            values.iter().flat_map(|&(name, value)| [self.name(name), value as u32]).collect();
        self.raw(name, 6, signed, values.len() as u32, 4, &body)
    }

    pub(crate) fn enumeration64(&mut self, name: &str, values: &[(&str, i64)]) -> u32 {
        let body: Vec<u32> = values
            .iter()
            .flat_map(|&(name, value)| [self.name(name), value as u32, (value >> 32) as u32])
            .collect();
        self.raw(name, 19, true, values.len() as u32, 8, &body)
    }

    /// typedef (8), volatile (9), const (10), restrict (11), type tag (18).
    pub(crate) fn alias(&mut self, kind: u32, name: &str, to: u32) -> u32 {
        self.raw(name, kind, false, 0, to, &[])
    }

    pub(crate) fn prototype(&mut self, params: &[u32]) -> u32 {
        let body: Vec<u32> = params.iter().flat_map(|&param| [0, param]).collect();
        self.raw("", 13, false, params.len() as u32, 0, &body)
    }

    pub(crate) fn function(&mut self, name: &str, prototype: u32) -> u32 {
        self.raw(name, 12, false, 1, prototype, &[])
    }

    /// A tracepoint as the kernel describes it: a typedef of a pointer to a prototype that begins with `void *`.
    pub(crate) fn tracepoint(&mut self, name: &str, args: &[u32]) -> u32 {
        let void_pointer = self.pointer(0);
        let params: Vec<u32> = std::iter::once(void_pointer).chain(args.iter().copied()).collect();
        let prototype = self.prototype(&params);
        let pointer = self.pointer(prototype);
        self.alias(8, &format!("btf_trace_{name}"), pointer)
    }

    /// The finished blob.
    pub(crate) fn finish(&self) -> Vec<u8> {
        self.finish_with_layout(&[])
    }

    /// The finished blob with a layout section: (bytes of the singular element, bytes of each element) per kind.
    pub(crate) fn finish_with_layout(&self, layout: &[(u8, u8)]) -> Vec<u8> {
        let header_length: u32 = if layout.is_empty() { 24 } else { 32 };
        let (n_types, n_strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut blob = vec![0x9f, 0xeb, 1, 0];
        for word in [header_length, 0, n_types, n_types, n_strings] {
            blob.extend_from_slice(&word.to_le_bytes());
        }
        if !layout.is_empty() {
            blob.extend_from_slice(&(n_types + n_strings).to_le_bytes());
            blob.extend_from_slice(&(layout.len() as u32 * 4).to_le_bytes());
        }
        blob.extend_from_slice(&self.types);
        blob.extend_from_slice(&self.strings);
        for &(info, element) in layout {
            blob.extend_from_slice(&[info, element, 0, 0]);
        }
        blob
    }
}

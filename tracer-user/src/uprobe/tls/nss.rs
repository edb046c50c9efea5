//! NSS: the two functions through which all clear text of its connections goes. They have no symbol; two tables lead to them.
//!
//! What programs call (`PR_Read`, `PR_Send` and the like) serves plain files and sockets too, and is two instructions that no probe is cheap on. NSS'
//! layer keeps for each socket which functions serve it: `ssl_secure_ops` with TLS, `ssl_default_ops` without (lib/ssl/sslsock.c). Both stand in the
//! file one behind the other, and what TLS does not change is the same in both.

use object::{
    LittleEndian as LE,
    elf::{R_X86_64_RELATIVE, Rela64},
    pod,
};
use rustc_hash::FxHashMap;

use crate::uprobe::{elf::Elf, placement::Function as Code, symbols::Symbol, symbols::Symbols};

/// Members of `struct sslSocketOpsStr` (lib/ssl/sslimpl.h): connect, accept, bind, listen, shutdown, close, recv, send, read, write, getpeername,
/// getsockname.
const N_MEMBERS: usize = 12;
const ACCEPT: usize = 1;
/// Those that TLS does not change.
const SHARED: [usize; 5] = [ACCEPT, 2, 3, 10, 11];
/// Those that it does.
const OWN: [usize; 7] = [0, 4, 5, RECEIVE, SEND, READ, WRITE];
const RECEIVE: usize = 6;
const SEND: usize = 7;
const READ: usize = 8;
const WRITE: usize = 9;
/// Bytes of constants with addresses in them that are searched: NSS' are 13 KB, Firefox' file that holds it too has some hundred.
const MAX_DATA: u64 = 16 << 20;
/// Bytes of a function that is not followed by a symbol.
const MAX_SIZE: u64 = 4096;

type Table = [Option<u64>; N_MEMBERS];

/// `ssl_SecureRecv` and `ssl_SecureSend`, both `int (sslSocket *, unsigned char *, int length, int flags)`.
pub(super) fn functions(elf: &Elf<'_>, symbols: &Symbols) -> Option<[Symbol; 2]> {
    let secure = secure_ops(elf, symbols)?;
    let symbol = |name: &str, at: usize| {
        let address = secure[at]?;
        Some(Symbol { name: name.to_owned(), address, size: size(symbols, address) })
    };
    Some([symbol("ssl_SecureRecv", RECEIVE)?, symbol("ssl_SecureSend", SEND)?])
}

fn size(symbols: &Symbols, address: u64) -> u64 {
    symbols.next_after(address).map_or(MAX_SIZE, |next| next - address).min(MAX_SIZE)
}

/// The table of what serves sockets with TLS; only if there is exactly one.
fn secure_ops(elf: &Elf<'_>, symbols: &Symbols) -> Option<Table> {
    let words = code_addresses(elf)?;
    let mut found = None;
    for pair in words.windows(2 * N_MEMBERS) {
        let table = |from: usize| -> Table { std::array::from_fn(|at| pair[from + at]) };
        let (first, second) = (table(0), table(N_MEMBERS));
        if first[ACCEPT].is_some()
            || SHARED.iter().any(|&at| first[at] != second[at] || (at != ACCEPT && first[at].is_none()))
            || OWN.iter().any(|&at| first[at].is_none() || second[at].is_none() || first[at] == second[at])
        {
            continue;
        }
        for table in [first, second] {
            if !leads(elf, symbols, &table) {
                continue;
            }
            if found.is_some() {
                return None;
            }
            found = Some(table);
        }
    }
    found
}

/// With TLS, reading is receiving without flags, and writing is sending without.
fn leads(elf: &Elf<'_>, symbols: &Symbols, table: &Table) -> bool {
    let goes_to = |from: usize, to: usize| {
        let (Some(from), Some(to)) = (table[from], table[to]) else { return false };
        // The others of the table bound it where no symbol does.
        let next = table.iter().flatten().filter(|address| **address > from).min();
        let size = next.map_or(MAX_SIZE, |next| next - from).min(size(symbols, from));
        Code::read(elf, from, size).leads_to().contains(&to)
    };
    goes_to(READ, RECEIVE) && goes_to(WRITE, SEND)
}

/// The words of the constants that have addresses in them, each with the code that it points to.
fn code_addresses(elf: &Elf<'_>) -> Option<Vec<Option<u64>>> {
    let section = elf.section(".data.rel.ro").filter(|section| section.size <= MAX_DATA)?;
    let data = elf.data(section, MAX_DATA);
    // Linkers leave the addresses in their places, or in the table of what is to be relocated only.
    let mut relocated: FxHashMap<u64, u64> = FxHashMap::default();
    if let Some(relocations) = elf.section(".rela.dyn") {
        let table = elf.data(relocations, MAX_DATA);
        let n = table.len() / size_of::<Rela64<LE>>();
        let (entries, _) = pod::slice_from_bytes::<Rela64<LE>>(&table, n).ok()?;
        for entry in entries {
            let at = entry.r_offset.get(LE).wrapping_sub(section.address);
            if entry.r_info.get(LE) == u64::from(R_X86_64_RELATIVE) && at < section.size {
                relocated.insert(at, entry.r_addend.get(LE).cast_unsigned());
            }
        }
    }
    let word = |(n, bytes): (usize, &[u8])| {
        let in_place = u64::from_le_bytes(bytes.try_into().ok()?);
        let value = relocated.get(&(n as u64 * 8)).copied().unwrap_or(in_place);
        elf.is_executable(value).then_some(value)
    };
    Some(data.chunks_exact(8).enumerate().map(word).collect())
}

//! The Huffman code of HPACK (RFC 7541, appendix B), decoded four bits at a time.
//!
//! The code is canonical: the lengths alone define it. The tables are made by the compiler: 256 inner nodes by 16 half-bytes, 16 KiB.
//! The shortest code has 5 bits, so that four bits complete one symbol at most.

/// Bits of each symbol's code; the last is the end of the string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// Longest code, bits.
const LONGEST: u8 = 30;
/// The end of the string: no string may hold it.
const END: u16 = 256;
/// Marks a leaf in the tree; the symbol is added.
const LEAF: u16 = 0x8000;
/// No symbol is complete.
const NONE: u16 = 0xffff;

/// What four bits lead to from an inner node.
#[derive(Clone, Copy)]
struct Move {
    /// Inner node.
    node: u8,
    /// Symbol that was completed, [`NONE`], or [`END`], which is a fault.
    symbol: u16,
}

static MOVES: [[Move; 16]; 256] = moves(tree());
/// Nodes on the path of ones, less than 8 deep: what is left over at a string's end may be the beginning of [`END`] only.
static IS_PADDING: [bool; 256] = padding(tree());

/// The two children of each inner node.
const fn tree() -> [[u16; 2]; 256] {
    let mut tree = [[NONE; 2]; 256];
    let mut n_nodes = 1;
    let mut code: u32 = 0;
    let mut length = 1;
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] == length {
                let mut node = 0;
                let mut bit = length - 1;
                while bit > 0 {
                    let side = ((code >> bit) & 1) as usize;
                    if tree[node][side] == NONE {
                        tree[node][side] = n_nodes;
                        n_nodes += 1;
                    }
                    node = tree[node][side] as usize;
                    bit -= 1;
                }
                tree[node][(code & 1) as usize] = LEAF | symbol as u16;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    tree
}

const fn moves(tree: [[u16; 2]; 256]) -> [[Move; 16]; 256] {
    let mut moves = [[Move { node: 0, symbol: NONE }; 16]; 256];
    let mut from = 0;
    while from < 256 {
        let mut bits = 0;
        while bits < 16 {
            let (mut node, mut symbol) = (from, NONE);
            let mut bit = 4;
            while bit > 0 {
                bit -= 1;
                let next = tree[node][(bits >> bit) & 1];
                node = if next & LEAF == 0 {
                    next as usize
                } else {
                    symbol = if symbol == END { END } else { next & !LEAF };
                    0
                };
            }
            moves[from][bits] = Move { node: node as u8, symbol };
            bits += 1;
        }
        from += 1;
    }
    moves
}

const fn padding(tree: [[u16; 2]; 256]) -> [bool; 256] {
    let mut is_padding = [false; 256];
    let (mut node, mut depth) = (0, 0);
    while depth < 8 {
        is_padding[node] = true;
        node = tree[node][1] as usize;
        depth += 1;
    }
    is_padding
}

/// Appends what `bytes` stand for. `false`: they are no such string.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let mut node = 0;
    for byte in bytes {
        for bits in [byte >> 4, byte & 15] {
            let Move { node: next, symbol } = MOVES[node][usize::from(bits)];
            match symbol {
                NONE => {}
                0..=255 => out.push(symbol as u8),
                _ => return false,
            }
            node = usize::from(next);
        }
    }
    IS_PADDING[node]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc_are_read() {
        let read = |hex: &[u8]| {
            let mut out = Vec::new();
            decode(hex, &mut out).then(|| String::from_utf8(out).unwrap())
        };
        let www = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(read(www).as_deref(), Some("www.example.com"));
        assert_eq!(read(b"\xa8\xeb\x10\x64\x9c\xbf").as_deref(), Some("no-cache"));
        assert_eq!(read(b"\x64\x02").as_deref(), Some("302"));
        assert_eq!(read(b"").as_deref(), Some(""));
    }

    #[test]
    fn padding_is_the_beginning_of_the_end_and_shorter_than_a_byte() {
        let mut out = Vec::new();
        assert!(decode(b"\x1f", &mut out) && out == b"a", "00011 and three ones");
        assert!(!decode(b"\x18", &mut Vec::new()), "zeros");
        assert!(!decode(b"\x1f\xff", &mut Vec::new()), "a byte of ones");
        assert!(!decode(b"\xff\xff\xff\xff", &mut Vec::new()), "the end of the string");
    }
}

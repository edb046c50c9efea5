//! How much stack the programs of the object take, as the verifier counts it (kernel/bpf/verifier.c, `check_max_stack_depth`): 512 bytes for a chain
//! of calls, each frame rounded up to 32. Kernels from 6.13 on give tracing programs a stack of their own, so that what is too much for all others
//! loads there without a word.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};
use rustc_hash::FxHashMap;

/// `MAX_BPF_STACK`.
const MOST: i64 = 512;

/// Section and index of the first instruction.
type Start = (usize, usize);

#[derive(Debug, Default)]
struct Function {
    name: String,
    frame: i64,
    calls: Vec<Start>,
}

fn functions(bytes: &[u8]) -> FxHashMap<Start, Function> {
    let file = object::File::parse(bytes).unwrap();
    let mut functions = FxHashMap::<Start, Function>::default();
    for symbol in
        file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.size() > 0)
    {
        let section = symbol.section_index().unwrap();
        let data = file.section_by_index(section).unwrap().data().unwrap();
        let relocations: FxHashMap<usize, (Start, i64)> = file
            .section_by_index(section)
            .unwrap()
            .relocations()
            .filter_map(|(at, relocation)| {
                let RelocationTarget::Symbol(target) = relocation.target() else { return None };
                let target = file.symbol_by_index(target).unwrap();
                let start = (target.section_index()?.0, target.address() as usize / 8);
                Some((at as usize / 8, (start, i64::from(target.kind() == object::SymbolKind::Section))))
            })
            .collect();
        let first = symbol.address() as usize / 8;
        let mut function = Function { name: symbol.name().unwrap().to_owned(), ..Function::default() };
        // Registers that hold the frame pointer.
        let mut pointers = [false; 16];
        pointers[10] = true;
        for idx in first..first + symbol.size() as usize / 8 {
            let code = &data[idx * 8..idx * 8 + 8];
            let (op, dst, src) = (code[0], usize::from(code[1] & 15), usize::from(code[1] >> 4));
            let offset = i64::from(i16::from_le_bytes([code[2], code[3]]));
            let immediate = i64::from(i32::from_le_bytes([code[4], code[5], code[6], code[7]]));
            let mut below = |by: i64| function.frame = function.frame.max(-by);
            match op & 7 {
                // BPF_LDX reads below `src`, BPF_ST and BPF_STX write below `dst`.
                1 if src == 10 => below(offset),
                2 | 3 if dst == 10 => below(offset),
                // `mov dst, src` and `add dst, immediate`, 64 bits.
                7 if op == 0xbf => pointers[dst] = src == 10,
                7 if op == 0x07 && pointers[dst] => {
                    below(immediate);
                    pointers[dst] = false;
                }
                _ => {}
            }
            // A call of a function of the object (BPF_PSEUDO_CALL), or its address (BPF_PSEUDO_FUNC).
            if (op, src) == (0x85, 1)
                || (op, src) == (0x18, 4)
                || (op == 0x18 && relocations.contains_key(&idx))
            {
                let target = match relocations.get(&idx) {
                    // From a section's start on, in instructions behind the one that calls.
                    Some(((section, start), 1)) if op == 0x85 => {
                        (*section, (*start as i64 + immediate + 1) as usize)
                    }
                    Some(((section, start), 1)) => (*section, *start + immediate as usize / 8),
                    Some((start, _)) => *start,
                    None => (section.0, (idx as i64 + immediate + 1) as usize),
                };
                function.calls.push(target);
            }
        }
        functions.insert((section.0, first), function);
    }
    functions
}

/// The deepest chain from there on, and what it takes.
fn deepest(functions: &FxHashMap<Start, Function>, start: Start) -> (i64, Vec<String>) {
    // Maps have addresses as well.
    let Some(function) = functions.get(&start) else { return (0, Vec::new()) };
    let chains = function.calls.iter().map(|&call| deepest(functions, call));
    let (depth, mut chain) = chains.max_by_key(|(depth, _)| *depth).unwrap_or_default();
    chain.insert(0, format!("{} ({})", rustc_demangle::demangle(&function.name), function.frame));
    (depth + (function.frame.max(1) as u64).next_multiple_of(32) as i64, chain)
}

#[test]
fn no_chain_of_calls_takes_more_stack_than_kernels_give() {
    let functions = functions(super::load::OBJECT);
    let mut n_chains = 0;
    for &start in functions.keys() {
        let (depth, chain) = deepest(&functions, start);
        assert!(depth <= MOST, "{depth} bytes: {}", chain.join(" > "));
        n_chains += usize::from(chain.len() > 3);
    }
    assert!(n_chains > 10, "{n_chains} chains of more than three functions: what calls what was not found");
}

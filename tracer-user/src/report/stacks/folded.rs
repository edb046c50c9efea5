//! Folded stacks: a line for each stack, the outermost function first, and its time in nanoseconds; what `flamegraph.pl` reads.
//! Of two selections there are two columns, as `difffolded.pl` writes them: ns per request of the other one, and of the selection.
//!
//! <https://github.com/brendangregg/FlameGraph>: functions are separated by `;`, those of the kernel end with `_[k]`.

use std::collections::BTreeMap;

use super::tree::{StackTree, Sums};

/// The lines, in the order of their text. `is_diff`: two columns.
pub fn lines(tree: &StackTree, is_diff: bool) -> String {
    // Functions of one name in different files are one here: names are all that there is.
    let mut sums: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (i, node) in tree.nodes.iter().enumerate() {
        let is_told = if is_diff { node.own != Sums::default() } else { node.own[0].ns > 0 };
        if is_told {
            let sum = sums.entry(stack(tree, i as u32)).or_default();
            for (sum, own) in sum.iter_mut().zip(node.own) {
                *sum = sum.saturating_add(own.ns);
            }
        }
    }
    let mut out = String::new();
    for (stack, [this, other]) in sums {
        let columns = match is_diff {
            true => format!("{} {}", tree.each(other, 1), tree.each(this, 0)),
            false => this.to_string(),
        };
        out.push_str(&format!("{stack} {columns}\n"));
    }
    out
}

fn stack(tree: &StackTree, node: u32) -> String {
    let names = tree.path(node).into_iter().map(|function| {
        // What separates functions is no part of a name; that of Rust's arrays is (`[u8; 4]`).
        tree.functions[function as usize].short().replace(';', ",")
    });
    let text = names.collect::<Vec<_>>().join(";");
    if text.is_empty() { "[nothing]".to_owned() } else { text }
}

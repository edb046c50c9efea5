//! A profile for speedscope: a sampled one, with a weight in nanoseconds for each stack.
//!
//! Format: <https://www.speedscope.app/file-format-schema.json> (`src/lib/file-format-spec.ts` of speedscope). Stacks begin with the outermost
//! function, and so do those of the tree. What is not there: times of samples, because they are sums.

use serde_json::{Value, json};

use super::tree::StackTree;

/// The schema that a file names.
pub const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

/// The file. `name`: what it is of.
pub fn file(tree: &StackTree, name: &str) -> Vec<u8> {
    let frames: Vec<Value> = tree
        .functions
        .iter()
        .map(|function| match &*function.file {
            "" => json!({ "name": function.name }),
            file => json!({ "name": function.short(), "file": file }),
        })
        .collect();
    let stacks = || tree.nodes.iter().enumerate().filter(|(_, node)| node.own[0].ns > 0);
    let samples: Vec<Vec<u32>> = stacks().map(|(i, _)| tree.path(i as u32)).collect();
    let weights: Vec<u64> = stacks().map(|(_, node)| node.own[0].ns).collect();
    let file = json!({
        "$schema": SCHEMA,
        "exporter": concat!("txray ", env!("CARGO_PKG_VERSION")),
        "name": name,
        "activeProfileIndex": 0,
        "shared": { "frames": frames },
        "profiles": [{
            "type": "sampled",
            "name": name,
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": tree.total()[0].ns,
            "samples": samples,
            "weights": weights,
        }],
    });
    let mut out = file.to_string().into_bytes();
    out.push(b'\n');
    out
}

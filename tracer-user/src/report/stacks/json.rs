//! The tree as JSON: a flat list of nodes, each behind the one that called it, so that deep stacks are no deep text.

use serde_json::{Map, Value, json};

use super::tree::{FunctionRow, Sandwich, StackTree, Sums};

/// The tree with its hottest functions. `is_diff`: with the figures of what it is compared with.
pub fn tree(tree: &StackTree, is_diff: bool, top: usize) -> Vec<u8> {
    let functions = tree.functions();
    let shown: Vec<Value> = functions.iter().take(top).map(|row| function(tree, row, is_diff)).collect();
    let mut all = requests(tree, is_diff);
    all.insert("nodes".to_owned(), nodes(tree, is_diff).into());
    all.insert("functions".to_owned(), shown.into());
    bytes(all)
}

/// A function's callers and what it calls.
pub fn sandwich(sandwich: &Sandwich) -> Vec<u8> {
    let mut all = requests(&sandwich.callees, false);
    let root = sandwich.callees.function_of(0);
    all.insert("function".to_owned(), json!(root.label()));
    all.insert("callers".to_owned(), nodes(&sandwich.callers, false).into());
    all.insert("callees".to_owned(), nodes(&sandwich.callees, false).into());
    bytes(all)
}

fn bytes(all: Map<String, Value>) -> Vec<u8> {
    let mut out = Value::Object(all).to_string().into_bytes();
    out.push(b'\n');
    out
}

fn requests(tree: &StackTree, is_diff: bool) -> Map<String, Value> {
    let of = |i: usize| json!({ "all": tree.requests[i].all, "with_stacks": tree.requests[i].with_stacks });
    let mut map = Map::new();
    map.insert("requests".to_owned(), of(0));
    if is_diff {
        map.insert("other_requests".to_owned(), of(1));
    }
    map
}

fn figures(row: &mut Value, own: &Sums, all: &Sums, is_diff: bool) {
    row["count"] = all[0].count.into();
    row["internal_ns"] = own[0].ns.into();
    row["external_ns"] = all[0].ns.into();
    if is_diff {
        row["other_count"] = all[1].count.into();
        row["other_internal_ns"] = own[1].ns.into();
        row["other_external_ns"] = all[1].ns.into();
    }
}

fn nodes(tree: &StackTree, is_diff: bool) -> Vec<Value> {
    let row = |(i, node): (usize, &super::Node)| {
        let function = &tree.functions[node.function as usize];
        let parent = if i == 0 { Value::Null } else { node.parent.into() };
        let kind = function.kind.as_str();
        let mut row = json!({ "id": i, "parent": parent, "name": function.name, "kind": kind });
        row["file"] = if function.file.is_empty() { Value::Null } else { json!(function.file) };
        figures(&mut row, &node.own, &node.all, is_diff);
        row
    };
    tree.nodes.iter().enumerate().map(row).collect()
}

fn function(tree: &StackTree, row: &FunctionRow, is_diff: bool) -> Value {
    let function = &tree.functions[row.function as usize];
    let mut told = json!({ "name": function.name, "kind": function.kind.as_str() });
    told["file"] = if function.file.is_empty() { Value::Null } else { json!(function.file) };
    figures(&mut told, &row.own, &row.all, is_diff);
    told
}

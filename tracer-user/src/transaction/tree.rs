//! What a service's paths have shown: a tree of segments, and the names given so far.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::segment::{is_literal, star_label};

/// Different literal children of one parent before they are folded. Above the number of resources that hand-made APIs
/// put under one segment, below what a segment with names in it shows within seconds.
pub(super) const MAX_LITERALS: usize = 64;
/// A literal child asked for so often keeps its name when its parent is folded.
pub(super) const KEEP_HITS: u64 = 16;
/// A path segment in a service's tree.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// By label, sorted. A label that begins with `{` is a placeholder.
    pub(super) children: Vec<(Box<str>, Node)>,
    /// Names that end here (one per method, and per trailing slash).
    pub(super) names: Vec<u32>,
    /// Hits of names that were folded into this node.
    pub(super) folded_hits: u64,
    /// No new literal children.
    pub(super) folded: bool,
}

/// At most `cap`; never shrinks, so that the bound holds for all names ever given.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) list: Vec<Name>,
    pub(super) by_text: FxHashMap<Arc<str>, u32>,
}

#[derive(Debug)]
pub(super) struct Name {
    pub(super) text: Arc<str>,
    pub(super) hits: u64,
}

impl Node {
    pub(super) fn find(&self, label: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(child, _)| (**child).cmp(label))
    }

    /// Literals sort on both sides of `{`; children are few.
    pub(super) fn n_literals(&self) -> usize {
        self.children.iter().filter(|(label, _)| is_literal(label)).count()
    }

    pub(super) fn n_descendants(&self) -> usize {
        self.children.iter().map(|(_, child)| 1 + child.n_descendants()).sum()
    }

    pub(super) fn hits(&self, names: &Names) -> u64 {
        names.hits(&self.names)
            + self.folded_hits
            + self.children.iter().map(|(_, child)| child.hits(names)).sum::<u64>()
    }

    /// Rarely used literal children become `{*}`.
    pub(super) fn fold(&mut self, names: &Names) {
        self.folded = true;
        let mut n_kept = 0;
        for (label, child) in std::mem::take(&mut self.children) {
            if !is_literal(&label) {
                self.absorb(label, child, names);
            } else if n_kept < MAX_LITERALS && child.hits(names) >= KEEP_HITS {
                n_kept += 1;
                self.absorb(label, child, names);
            } else {
                self.absorb(star_label(&label).into(), child, names);
            }
        }
    }

    /// Adds a child, or joins it with the one of that label.
    pub(super) fn absorb(&mut self, label: Box<str>, child: Node, names: &Names) {
        match self.find(&label) {
            Err(idx) => {
                // A star stands for what was folded: names that ended in its parts are never given again.
                let child = if label.starts_with("{*}") { child.retired(names) } else { child };
                self.children.insert(idx, (label, child));
            }
            Ok(idx) => {
                let into = &mut self.children[idx].1;
                let child = child.retired(names);
                into.folded |= child.folded;
                into.folded_hits += child.folded_hits;
                for (label, grandchild) in child.children {
                    into.absorb(label, grandchild, names);
                }
                if into.n_literals() > MAX_LITERALS {
                    into.fold(names);
                }
            }
        }
    }

    /// The node with its names turned into a number of hits.
    pub(super) fn retired(mut self, names: &Names) -> Node {
        self.folded_hits += names.hits(&self.names);
        self.names.clear();
        for (_, child) in &mut self.children {
            *child = std::mem::take(child).retired(names);
        }
        self
    }
}

impl Names {
    /// The index of a name, new ones as long as there is room.
    pub(super) fn admit(&mut self, text: &str, cap: usize) -> Option<u32> {
        if let Some(&idx) = self.by_text.get(text) {
            return Some(idx);
        }
        if self.list.len() >= cap {
            return None;
        }
        let idx = self.list.len() as u32;
        let text: Arc<str> = text.into();
        self.list.push(Name { text: text.clone(), hits: 0 });
        self.by_text.insert(text, idx);
        Some(idx)
    }

    /// Calls under these names.
    pub(super) fn hits(&self, names: &[u32]) -> u64 {
        names.iter().filter_map(|&name| self.list.get(name as usize)).map(|name| name.hits).sum()
    }
}

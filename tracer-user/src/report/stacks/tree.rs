//! The stacks of many requests as one tree of calls, the outermost first; of one selection, or of two that are compared. Pure.

use std::{borrow::Cow, cmp::Reverse, sync::Arc};

use rustc_hash::FxHashMap;

use super::frame::{FrameKind, Function};
use crate::{
    event::StackEnd,
    transaction::{
        Transaction,
        stacks::{StackPart, StackSum},
    },
};

/// Nodes of a tree. A stack that would need more is one of [`NO_ROOM`], whole. Some 72 bytes each, and those of its place among its siblings.
pub const MAX_NODES: usize = 100_000;
/// Texts whose place in the tree is remembered, so that what was met before is not taken apart again; beyond it all are forgotten. Some 2 KB each.
/// (65,536 requests of 4 stacks of 34 frames, 400 different ones, without optimisation: 0.15 s where texts are shared, 3.2 s where each has its own.)
const MAX_KNOWN: usize = 1 << 14;

/// The node of the stacks for which there was no room in the tree.
pub const NO_ROOM: &str = "[no room]";
/// Its place among the functions.
const NO_ROOM_FUNCTION: u32 = 1;
/// The node of the stacks for which there was no room in their request.
pub const OTHER_STACKS: &str = "[other stacks]";
/// The node above what was on a CPU.
pub const ON_CPU: &str = "[on a CPU]";

/// Which stacks are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// Of moments on a CPU.
    On,
    /// Of waits.
    Off,
    /// Both; what is on top says which, and of waits for what.
    #[default]
    Both,
}

impl Parts {
    fn takes(self, part: StackPart) -> bool {
        match self {
            Parts::On => part == StackPart::OnCpu,
            Parts::Off => part != StackPart::OnCpu,
            Parts::Both => true,
        }
    }

    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Parts::On => "on a CPU",
            Parts::Off => "off the CPU",
            Parts::Both => "on a CPU and off it",
        }
    }
}

/// How often and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Samples and waits.
    pub count: u64,
    /// Their time, ns.
    pub ns: u64,
}

impl Sum {
    /// One more.
    pub fn add(&mut self, other: Sum) {
        self.count = self.count.saturating_add(other.count);
        self.ns = self.ns.saturating_add(other.ns);
    }
}

/// Of the selection, and of what it is compared with.
pub type Sums = [Sum; 2];

fn add(sums: &mut Sums, more: &Sums) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| sum.add(*more));
}

/// A function where it was called.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Its place among [`StackTree::functions`].
    pub function: u32,
    /// Who called it; the root's own is itself.
    pub parent: u32,
    /// Internal: it was the innermost.
    pub own: Sums,
    /// External: it or what it called was.
    pub all: Sums,
}

/// Requests of a selection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// All.
    pub all: u64,
    /// Those that have stacks: of the others none were taken, or they were not kept.
    pub with_stacks: u64,
}

/// A function with all its places in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionRow {
    /// Its place among [`StackTree::functions`].
    pub function: u32,
    /// Internal.
    pub own: Sums,
    /// External; where it calls itself, once.
    pub all: Sums,
}

/// A tree of calls. Node 0 is the root: all stacks.
#[derive(Clone, Debug, Default)]
pub struct StackTree {
    /// Its nodes, each behind its parent.
    pub nodes: Vec<Node>,
    /// What they stand for.
    pub functions: Arc<Vec<Function>>,
    /// Requests of both selections.
    pub requests: [Requests; 2],
    children: Vec<Vec<u32>>,
}

/// Nodes while they come.
#[derive(Debug)]
struct Grower {
    nodes: Vec<Node>,
    by_function: FxHashMap<(u32, u32), u32>,
    most: usize,
}

impl Grower {
    fn new(root: u32, most: usize) -> Grower {
        let root = Node { function: root, parent: 0, own: Sums::default(), all: Sums::default() };
        Grower { nodes: vec![root], by_function: FxHashMap::default(), most }
    }

    /// The node at the end of a path from the root; that of what found no room, if the path does not fit.
    fn node(&mut self, path: &[u32]) -> u32 {
        let (mut node, mut known) = (0, 0);
        for function in path {
            let Some(next) = self.by_function.get(&(node, *function)) else { break };
            (node, known) = (*next, known + 1);
        }
        let missing = &path[known..];
        // One place is kept for what finds no room.
        if self.nodes.len() + missing.len() < self.most {
            return missing.iter().fold(node, |parent, function| self.push(parent, *function));
        }
        match self.by_function.get(&(0, NO_ROOM_FUNCTION)) {
            _ if missing.is_empty() => node,
            Some(node) => *node,
            None => self.push(0, NO_ROOM_FUNCTION),
        }
    }

    fn push(&mut self, parent: u32, function: u32) -> u32 {
        let node = self.nodes.len() as u32;
        self.nodes.push(Node { function, parent, own: Sums::default(), all: Sums::default() });
        self.by_function.insert((parent, function), node);
        node
    }

    fn add(&mut self, node: u32, sums: &Sums) {
        add(&mut self.nodes[node as usize].own, sums);
    }

    fn finish(mut self, functions: Arc<Vec<Function>>, requests: [Requests; 2]) -> StackTree {
        // Each node stands behind its parent: from the last to the first, what is below a node is complete when it is its turn.
        for at in (0..self.nodes.len()).rev() {
            let Node { parent, own, .. } = self.nodes[at];
            add(&mut self.nodes[at].all, &own);
            let all = self.nodes[at].all;
            if at != 0 {
                add(&mut self.nodes[parent as usize].all, &all);
            }
        }
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().skip(1) {
            children[node.parent as usize].push(i as u32);
        }
        for siblings in &mut children {
            siblings.sort_by_key(|node| {
                let node = &self.nodes[*node as usize];
                let [this, other] = node.all.map(|sum| Reverse(sum.ns));
                (this, other, &functions[node.function as usize])
            });
        }
        StackTree { nodes: self.nodes, functions, requests, children }
    }
}

/// Takes the stacks of requests.
#[derive(Debug)]
pub struct Gatherer {
    parts: Parts,
    grower: Grower,
    functions: Vec<Function>,
    by_function: FxHashMap<Function, u32>,
    by_frame: FxHashMap<String, u32>,
    by_stack: FxHashMap<(StackPart, StackEnd, Arc<str>), u32>,
    /// The same by the place of a text that is shared, which is kept so that no other one can have its place.
    by_place: FxHashMap<(StackPart, StackEnd, usize), (Arc<str>, u32)>,
    requests: [Requests; 2],
}

impl Gatherer {
    /// Takes these.
    pub fn new(parts: Parts) -> Gatherer {
        Gatherer::with_room(parts, MAX_NODES)
    }

    /// The same with room for another number of nodes.
    pub fn with_room(parts: Parts, nodes: usize) -> Gatherer {
        let functions =
            vec![Function::other("all", FrameKind::Mark), Function::other(NO_ROOM, FrameKind::Mark)];
        let by_function = functions.iter().cloned().zip(0..).collect();
        Gatherer {
            parts,
            grower: Grower::new(0, nodes.max(2)),
            functions,
            by_function,
            by_frame: FxHashMap::default(),
            by_stack: FxHashMap::default(),
            by_place: FxHashMap::default(),
            requests: [Requests::default(); 2],
        }
    }

    /// Takes those of a request: 0 of the selection, 1 of what it is compared with.
    pub fn add(&mut self, request: &Transaction, selection: usize) {
        let stacks = request.causes.as_ref().and_then(|causes| causes.stacks());
        let requests = &mut self.requests[selection.min(1)];
        requests.all += 1;
        requests.with_stacks += u64::from(stacks.is_some());
        for stack in stacks.unwrap_or_default() {
            self.add_stack(stack, selection);
        }
    }

    fn add_stack(&mut self, stack: &StackSum, selection: usize) {
        let StackSum { part, ns, count, frames, end } = stack;
        if !self.parts.takes(*part) {
            return;
        }
        let place = (*part, *end, frames.as_ptr().addr());
        let node = match self.by_place.get(&place) {
            Some((_, node)) => *node,
            None => {
                let node = self.node(stack);
                // Its own and that of `by_stack`, and somebody's who has it too.
                if Arc::strong_count(frames) > 2 {
                    if self.by_place.len() >= MAX_KNOWN {
                        self.by_place.clear();
                    }
                    self.by_place.insert(place, (frames.clone(), node));
                }
                node
            }
        };
        let mut sums = Sums::default();
        sums[selection.min(1)] = Sum { count: *count, ns: *ns };
        self.grower.add(node, &sums);
    }

    /// The node of its innermost function.
    fn node(&mut self, stack: &StackSum) -> u32 {
        let key = (stack.part, stack.end, stack.frames.clone());
        if let Some(node) = self.by_stack.get(&key) {
            return *node;
        }
        let path = self.path(stack);
        let node = self.grower.node(&path);
        if self.by_stack.len() >= MAX_KNOWN {
            self.by_stack.clear();
        }
        self.by_stack.insert(key, node);
        node
    }

    /// Functions from the root on.
    fn path(&mut self, stack: &StackSum) -> Vec<u32> {
        self.whole_path(stack).unwrap_or_else(|| vec![NO_ROOM_FUNCTION])
    }

    /// The same; `None`: there are more functions than nodes could stand for.
    fn whole_path(&mut self, stack: &StackSum) -> Option<Vec<u32>> {
        let frames: Option<Vec<Cow<'_, str>>> = serde_json::from_str(&stack.frames).ok();
        let mut path = Vec::new();
        if self.parts == Parts::Both {
            let name = match stack.part {
                StackPart::OnCpu => ON_CPU.to_owned(),
                StackPart::Off(reason) => format!("[{}]", reason.label()),
            };
            path.push(self.function(Function::other(&name, FrameKind::Part))?);
        }
        let mark = match (&frames, stack.end) {
            (None, _) => Some("[not readable]"),
            (Some(frames), StackEnd::Truncated) if frames.is_empty() => Some(OTHER_STACKS),
            (Some(_), StackEnd::Complete) => None,
            (Some(_), StackEnd::Truncated) => Some("[truncated]"),
            (Some(_), StackEnd::UnknownCaller) => Some("[unknown caller]"),
            (Some(_), StackEnd::Unreadable) => Some("[unreadable caller]"),
            (Some(_), StackEnd::Unresolved) => Some("[unresolved]"),
        };
        if let Some(mark) = mark {
            path.push(self.function(Function::other(mark, FrameKind::Mark))?);
        }
        for frame in frames.unwrap_or_default().iter().rev() {
            let function = match self.by_frame.get(&**frame) {
                Some(function) => *function,
                None => {
                    let function = self.function(Function::of_frame(frame))?;
                    if self.by_frame.len() >= MAX_KNOWN {
                        self.by_frame.clear();
                    }
                    self.by_frame.insert(frame.clone().into_owned(), function);
                    function
                }
            };
            path.push(function);
        }
        Some(path)
    }

    fn function(&mut self, function: Function) -> Option<u32> {
        if let Some(known) = self.by_function.get(&function) {
            return Some(*known);
        }
        if self.functions.len() > 2 * self.grower.most {
            return None;
        }
        let id = self.functions.len() as u32;
        self.functions.push(function.clone());
        self.by_function.insert(function, id);
        Some(id)
    }

    /// The tree.
    pub fn finish(self) -> StackTree {
        self.grower.finish(self.functions.into(), self.requests)
    }
}

/// Who calls a function, and what it calls.
#[derive(Clone, Debug)]
pub struct Sandwich {
    /// Its callers, the nearest first; the root is the function.
    pub callers: StackTree,
    /// What it calls; the root is the function.
    pub callees: StackTree,
}

impl StackTree {
    /// The tree of some requests.
    pub fn of<'a>(parts: Parts, requests: impl Iterator<Item = &'a Transaction>) -> StackTree {
        let mut gatherer = Gatherer::new(parts);
        requests.for_each(|request| gatherer.add(request, 0));
        gatherer.finish()
    }

    /// A node.
    pub fn node(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }

    /// What a node stands for.
    pub fn function_of(&self, node: u32) -> &Function {
        &self.functions[self.node(node).function as usize]
    }

    /// What it calls, the longest of the selection first.
    pub fn children(&self, node: u32) -> &[u32] {
        self.children.get(node as usize).map_or(&[], |children| &children[..])
    }

    /// All of it.
    pub fn total(&self) -> Sums {
        self.nodes.first().map_or_else(Sums::default, |root| root.all)
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.total() == Sums::default()
    }

    /// Stacks that found no room in it.
    pub fn no_room(&self) -> Sums {
        let node = self.children(0).iter().find(|node| &*self.function_of(**node).name == NO_ROOM);
        node.map_or_else(Sums::default, |node| self.node(*node).all)
    }

    /// Functions from the root on, that of the node included, the root's not.
    pub fn path(&self, node: u32) -> Vec<u32> {
        let mut path = Vec::new();
        let mut at = node;
        while at != 0 {
            path.push(self.node(at).function);
            at = self.node(at).parent;
        }
        path.reverse();
        path
    }

    /// The node at the end of such a path, as far as there is one.
    pub fn find(&self, path: &[Function]) -> u32 {
        let mut at = 0;
        for function in path {
            let next = self.children(at).iter().find(|node| self.function_of(**node) == function);
            let Some(next) = next else { return at };
            at = *next;
        }
        at
    }

    /// What one request has of a time, ns; requests without stacks do not count, because nobody knows what they would have.
    pub fn each(&self, ns: u64, selection: usize) -> u64 {
        ns / self.requests[selection.min(1)].with_stacks.max(1)
    }

    /// How much more one request of the selection has than one of the other, ns.
    pub fn difference(&self, sums: &Sums) -> i64 {
        let [this, other] = [0, 1].map(|i| i64::try_from(self.each(sums[i].ns, i)).unwrap_or(i64::MAX));
        this.saturating_sub(other)
    }

    /// Functions, the most internal time of the selection first.
    pub fn functions(&self) -> Vec<FunctionRow> {
        let mut rows: Vec<FunctionRow> = (0..self.functions.len())
            .map(|i| FunctionRow { function: i as u32, own: Sums::default(), all: Sums::default() })
            .collect();
        // By function, the node whose stack it was counted for last.
        let mut counted = vec![0; rows.len()];
        for (i, node) in self.nodes.iter().enumerate().skip(1).filter(|(_, node)| node.own != Sums::default())
        {
            add(&mut rows[node.function as usize].own, &node.own);
            let mut at = i as u32;
            while at != 0 {
                let Node { function, parent, .. } = *self.node(at);
                if counted[function as usize] != i {
                    counted[function as usize] = i;
                    add(&mut rows[function as usize].all, &node.own);
                }
                at = parent;
            }
        }
        rows.retain(|row| {
            row.all != Sums::default() && self.functions[row.function as usize].kind != FrameKind::Part
        });
        rows.sort_by_key(|row| {
            let [own, all] = [&row.own, &row.all].map(|sums| Reverse(sums[0].ns));
            (own, all, Reverse(row.own[1].ns), &self.functions[row.function as usize])
        });
        rows
    }

    /// Who calls a function, and what it calls. Of one that calls itself the outermost call is taken.
    pub fn sandwich(&self, wanted: impl Fn(&Function) -> bool) -> Option<Sandwich> {
        let is_wanted: Vec<bool> = self.functions.iter().map(wanted).collect();
        let root = is_wanted.iter().position(|wanted| *wanted)? as u32;
        let [mut callers, mut callees] = [0; 2].map(|_| Grower::new(root, MAX_NODES));
        for (i, node) in self.nodes.iter().enumerate().skip(1).filter(|(_, node)| node.own != Sums::default())
        {
            let path = self.path(i as u32);
            let Some(at) = path.iter().position(|function| is_wanted[*function as usize]) else { continue };
            let (before, after) = (&path[..at], &path[at + 1..]);
            let before: Vec<u32> = before.iter().rev().copied().collect();
            for (grower, path) in [(&mut callers, &before[..]), (&mut callees, after)] {
                let node_of_path = grower.node(path);
                grower.add(node_of_path, &node.own);
            }
        }
        let [callers, callees] =
            [callers, callees].map(|grower| grower.finish(self.functions.clone(), self.requests));
        (!callees.is_empty()).then_some(Sandwich { callers, callees })
    }
}

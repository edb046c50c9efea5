//! Call stacks on the screen: which are chosen, and what of the tree is looked at. Pure.

use std::{cmp::Reverse, sync::Arc};

use super::{
    app::{App, Command, Rows, Seen},
    chart::Rectangle,
    draw::Layout,
    keymap::Action,
    view::{Place, View},
};
use crate::{
    report::stacks::{Function, FunctionRow, Gatherer, Parts, Requests, Sandwich, StackTree},
    time::WallTime,
    transaction::Transaction,
};

const SECOND_NS: u64 = 1_000_000_000;

/// Up to when requests are looked at: the seconds that are over, so that a tree is made once a second and is the same whenever that is; all, where
/// nothing more will come.
pub(super) fn until(watermark: WallTime, is_finished: bool) -> WallTime {
    if is_finished { WallTime(u64::MAX) } else { WallTime(watermark.0 / SECOND_NS * SECOND_NS) }
}

/// Order of the functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StackSort {
    /// Most time in itself first.
    #[default]
    Internal,
    /// Most time in it and what it calls first.
    External,
    /// Met most often first.
    Count,
}

impl StackSort {
    /// Heading of the column it sorts by.
    pub fn column(self) -> &'static str {
        match self {
            StackSort::Internal => "internal",
            StackSort::External => "external",
            StackSort::Count => "count",
        }
    }

    /// The order that comes next.
    pub fn next(self) -> StackSort {
        match self {
            StackSort::Internal => StackSort::External,
            StackSort::External => StackSort::Count,
            StackSort::Count => StackSort::Internal,
        }
    }
}

/// What the user chose. Frames are named by the functions from the root on: their nodes are others in each tree.
#[derive(Clone, Debug, Default)]
pub struct StacksPage {
    /// Of moments on a CPU, of waits, or both.
    pub parts: Parts,
    /// The rectangle of the XLog whose requests they are of.
    pub rectangle: Option<Rectangle>,
    /// Those are compared with the others on the chart.
    pub is_diff: bool,
    /// The frame that fills the width.
    pub zoom: Vec<Function>,
    /// Those that filled it before, each above the next: no more than a stack has frames.
    pub zooms: Vec<Vec<Function>>,
    /// The selected frame.
    pub selected: Vec<Function>,
    /// The table has the arrows.
    pub in_table: bool,
    /// The table.
    pub table: Rows,
    /// Its order.
    pub sort: StackSort,
    /// The function that is shown between its callers and what it calls.
    pub sandwich: Option<Function>,
}

impl StacksPage {
    /// Leaves what was opened last; whether there was something.
    pub(super) fn back(&mut self) -> bool {
        if self.sandwich.take().is_some() {
            return true;
        }
        if let Some(before) = self.zooms.pop() {
            self.selected = std::mem::replace(&mut self.zoom, before);
            return true;
        }
        if std::mem::take(&mut self.is_diff) {
            return true;
        }
        self.rectangle.take().is_some()
    }

    fn look_at_all(&mut self) {
        (self.zoom, self.zooms, self.selected) = (Vec::new(), Vec::new(), Vec::new());
        (self.table, self.sandwich) = (Rows::default(), None);
    }
}

/// What lies around the selected frame, as the last frame of the screen showed it.
#[derive(Clone, Debug, Default)]
pub struct SeenStacks {
    /// The selected frame itself.
    pub selected: Vec<Function>,
    /// Its caller, as far as that is shown.
    pub caller: Vec<Function>,
    /// The longest of what it calls.
    pub callee: Option<Vec<Function>>,
    /// The frames beside it.
    pub beside: [Option<Vec<Function>>; 2],
    /// The function of the frame, or of the row that is selected.
    pub function: Option<Function>,
}

/// The stacks of the requests that are chosen.
#[derive(Clone, Debug)]
pub struct ShownStacks {
    /// The tree.
    pub tree: Arc<StackTree>,
    /// Its functions, sorted.
    pub functions: Arc<Vec<FunctionRow>>,
    /// A function between its callers and what it calls.
    pub sandwich: Option<Arc<Sandwich>>,
    /// The node that fills the width.
    pub zoom: u32,
    /// The selected node.
    pub selected: u32,
    key: Key,
    sandwich_of: Option<Function>,
}

/// What a tree is made of: where that is the same, so is the tree.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    rows: (WallTime, Option<usize>),
    narrowed: String,
    parts: Parts,
    rectangle: Option<Rectangle>,
    is_diff: bool,
    sort: StackSort,
}

impl ShownStacks {
    /// Of the rows that are chosen, those until an instant ([`until`]), so many where that says something; `before`: what the frame before showed.
    pub(super) fn read(
        app: &App,
        until: (WallTime, Option<usize>),
        before: Option<&ShownStacks>,
        rows: impl FnOnce() -> Vec<Arc<Transaction>>,
    ) -> ShownStacks {
        let StacksPage { parts, rectangle, is_diff, sort, .. } = app.stacks;
        let narrowed = app.narrowed_to();
        let key = Key { rows: until, narrowed, parts, rectangle, is_diff, sort };
        let same = before.filter(|before| before.key == key);
        let (tree, functions) = match same {
            Some(before) => (before.tree.clone(), before.functions.clone()),
            None => {
                let tree = gather(&app.stacks, &rows());
                let functions = sorted(&tree, sort, is_diff);
                (Arc::new(tree), Arc::new(functions))
            }
        };
        let wanted = &app.stacks.sandwich;
        let sandwich = match (wanted, same) {
            (Some(_), Some(before)) if before.sandwich_of == *wanted => before.sandwich.clone(),
            (Some(wanted), _) => tree.sandwich(|function| function == wanted).map(Arc::new),
            (None, _) => None,
        };
        let zoom = tree.find(&app.stacks.zoom);
        let selected = tree.find(&app.stacks.selected);
        // What is not below the frame that fills the width is not shown.
        let is_below = tree.path(selected).starts_with(&tree.path(zoom));
        let selected = if is_below { selected } else { zoom };
        ShownStacks { functions, sandwich, zoom, selected, key, sandwich_of: wanted.clone(), tree }
    }

    /// Requests that were looked at.
    pub fn requests(&self) -> [Requests; 2] {
        self.tree.requests
    }

    /// The function of the selected row.
    pub(super) fn row(&self, app: &App) -> Option<&FunctionRow> {
        self.functions.get(app.stacks.table.selected.min(self.functions.len().saturating_sub(1)))
    }

    /// What a key refers to.
    pub(super) fn seen(&self, app: &App, layout: &Layout) -> SeenStacks {
        let tree = &self.tree;
        let named = |node: u32| -> Vec<Function> {
            tree.path(node).into_iter().map(|function| tree.functions[function as usize].clone()).collect()
        };
        let boxes = boxes(tree, self.zoom, layout.flame.width);
        let row = boxes.iter().find(|row| row.iter().any(|frame| frame.node == self.selected));
        let at = row.and_then(|row| row.iter().position(|frame| frame.node == self.selected));
        let beside = |at: Option<usize>| Some(named(row?.get(at?)?.node));
        let caller = if self.selected == self.zoom { self.zoom } else { tree.node(self.selected).parent };
        let callee = tree.children(self.selected).iter().find(|node| tree.node(**node).all[0].ns > 0);
        let function = match (app.stacks.in_table, self.row(app)) {
            (true, Some(row)) => Some(tree.functions[row.function as usize].clone()),
            (true, None) => None,
            (false, _) => (self.selected != 0).then(|| tree.function_of(self.selected).clone()),
        };
        SeenStacks {
            selected: named(self.selected),
            caller: named(caller),
            callee: callee.map(|node| named(*node)),
            beside: [beside(at.and_then(|at| at.checked_sub(1))), beside(at.map(|at| at + 1))],
            function,
        }
    }
}

fn gather(page: &StacksPage, rows: &[Arc<Transaction>]) -> StackTree {
    let mut gatherer = Gatherer::new(page.parts);
    for row in rows {
        match &page.rectangle {
            None => gatherer.add(row, 0),
            Some(rectangle) if rectangle.holds(row) => gatherer.add(row, 0),
            Some(rectangle) => {
                if page.is_diff && rectangle.is_on_chart(row.role, row.end_time) {
                    gatherer.add(row, 1);
                }
            }
        }
    }
    gatherer.finish()
}

fn sorted(tree: &StackTree, sort: StackSort, is_diff: bool) -> Vec<FunctionRow> {
    let mut rows = tree.functions();
    // Stable: equal ones stay in the order of the tree's own.
    rows.sort_by_key(|row| {
        let of = match sort {
            StackSort::Internal => &row.own,
            StackSort::External | StackSort::Count => &row.all,
        };
        Reverse(match (sort, is_diff) {
            (StackSort::Count, _) => of[0].count,
            (_, true) => tree.difference(of).unsigned_abs(),
            (_, false) => of[0].ns,
        })
    });
    rows
}

/// A frame of a flame graph, in cells from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The node.
    pub(super) node: u32,
    /// First cell.
    pub(super) x: u16,
    /// Cells.
    pub(super) width: u16,
}

/// The frames below a node, itself included, each row below that of its callers; what is narrower than a cell is not there. No more of them in a row
/// than it has cells.
pub(super) fn boxes(tree: &StackTree, top: u32, width: u16) -> Vec<Vec<Frame>> {
    let mut rows = Vec::new();
    if width == 0 || tree.is_empty() {
        return rows;
    }
    let mut row = vec![Frame { node: top, x: 0, width }];
    while !row.is_empty() {
        let mut below = Vec::new();
        for frame in &row {
            let whole = u128::from(tree.node(frame.node).all[0].ns.max(1));
            let cells = |ns: u64| (u128::from(ns) * u128::from(frame.width) / whole) as u16;
            let mut before = 0_u64;
            for node in tree.children(frame.node) {
                let from = cells(before);
                before = before.saturating_add(tree.node(*node).all[0].ns);
                let width = cells(before).min(frame.width) - from;
                if width > 0 {
                    below.push(Frame { node: *node, x: frame.x + from, width });
                }
            }
        }
        rows.push(std::mem::replace(&mut row, below));
    }
    rows
}

/// Lines that the stacks of a transaction take at most where it is shown.
pub(super) fn n_lines(shown: &Transaction) -> usize {
    let stacks = shown.causes.as_ref().and_then(|causes| causes.stacks()).unwrap_or_default();
    // The part, a mark, and what is summed up.
    stacks.iter().map(|stack| stack.frames().len() + 4).sum()
}

impl App {
    /// Shows call stacks: of what is selected, if something is.
    fn show_stacks(&mut self) {
        if self.view != View::Stacks || self.selection.is_some() {
            self.stacks.look_at_all();
            (self.stacks.rectangle, self.stacks.is_diff) = (self.selection.take(), false);
        }
        self.contrast = false;
        if let Some(cursor) = self.cursor.take() {
            self.thaw(cursor);
        }
        (self.view, self.scroll) = (View::Stacks, 0);
    }

    /// Keys of call stacks.
    pub(super) fn act_on_stacks(&mut self, action: Action, seen: &Seen) -> Option<Command> {
        if action == Action::View(View::Stacks) {
            self.show_stacks();
            return Some(Command::Draw);
        }
        if self.place() != Place::View(View::Stacks) {
            return None;
        }
        let around = &seen.stacks;
        let page = &mut self.stacks;
        match action {
            Action::StackParts => {
                page.parts = match page.parts {
                    Parts::Both => Parts::On,
                    Parts::On => Parts::Off,
                    Parts::Off => Parts::Both,
                };
                page.look_at_all();
            }
            Action::StackTable => page.in_table ^= true,
            Action::Contrast if page.rectangle.is_none() => {
                let way = "select a rectangle in the XLog, list it, and come here from there".to_owned();
                self.complaint = Some(way);
            }
            Action::Contrast => {
                page.is_diff ^= true;
                page.look_at_all();
            }
            Action::Sandwich if page.sandwich.is_some() && page.sandwich == around.function => {
                page.sandwich = None;
            }
            Action::Sandwich => page.sandwich = Some(around.function.clone()?),
            Action::Open if page.in_table => page.sandwich = Some(around.function.clone()?),
            Action::Open if around.selected.len() <= page.zoom.len() || page.sandwich.is_some() => {
                return Some(Command::Nothing);
            }
            Action::Open => {
                let before = std::mem::replace(&mut page.zoom, around.selected.clone());
                page.zooms.push(before);
            }
            Action::Sort => (page.sort, page.table) = (page.sort.next(), Rows::default()),
            Action::Previous
            | Action::Next
            | Action::First
            | Action::Last
            | Action::PageUp
            | Action::PageDown
                if page.in_table =>
            {
                page.table.go(action, seen);
            }
            Action::Previous => page.selected = around.caller.clone(),
            Action::Next => page.selected = around.callee.clone()?,
            Action::CursorLeft => page.selected = around.beside[0].clone()?,
            Action::CursorRight => page.selected = around.beside[1].clone()?,
            Action::First => page.selected = page.zoom.clone(),
            Action::Last | Action::PageUp | Action::PageDown => return Some(Command::Nothing),
            _ => return None,
        }
        Some(Command::Draw)
    }
}

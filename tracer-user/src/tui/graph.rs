//! The picture of who calls whom: boxes in layers from left to right, by depth of the call, and lines between them. Pure: the same
//! calls give the same picture.
//!
//! Each line has a row of its own at each end and, between two layers, a column of its own; the columns are ordered such that two
//! lines share a cell only where one crosses the other. A line against the direction of its layer (a cycle) has its head at the left.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthStr as _;

use super::theme::Symbols;
use crate::report::{
    edges::{Edge, Peer},
    format::{Align, count, duration, fit},
};

/// Boxes that are tried at most: more are never to be read, and it bounds the time for a picture.
const MAX_BOXES: usize = 40;
/// Lines that are tried at most, for the same reason.
const MAX_LINES: usize = 160;
/// How names, labels and columns are shortened until the picture fits: widest name, form of the label, cells between columns.
const LEVELS: [(usize, usize, u16); 4] = [(28, 0, 2), (18, 0, 1), (20, 1, 1), (12, 1, 1)];

/// An end of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, safe to show.
    pub name: String,
    /// Nothing is known of it but its address: drawn dashed.
    pub unseen: bool,
}

/// Calls from one end to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who asks.
    pub from: usize,
    /// Who answers.
    pub to: usize,
    /// Calls.
    pub calls: u64,
    /// Those of the last seconds.
    pub recent: u64,
    /// Rate, errors and p99; the same in short.
    pub labels: [String; 2],
    /// The part of each that tells of errors; empty where there were none.
    pub errors: [String; 2],
}

/// What is drawn. Links are in the order of the edges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// Ends.
    pub nodes: Vec<Node>,
    /// Calls.
    pub links: Vec<Link>,
}

impl Graph {
    /// Of these edges; `rate`: a number of recent calls as a rate.
    pub fn of(edges: &[Edge], rate: impl Fn(&Edge) -> String) -> Graph {
        let mut graph = Graph::default();
        let mut known: BTreeMap<&Peer, usize> = BTreeMap::new();
        let several = edges.iter().any(|edge| edge.protocol != edges[0].protocol);
        for edge in edges {
            let [from, to] = [&edge.from, &edge.to].map(|peer| {
                *known.entry(peer).or_insert_with(|| {
                    graph.nodes.push(Node { name: peer.name(), unseen: peer.is_unseen() });
                    graph.nodes.len() - 1
                })
            });
            let rate = rate(edge);
            let p99 = edge.quantiles_ns.map(|[_, _, p99, _]| duration(p99));
            let protocol = if several { format!("{} ", edge.protocol) } else { String::new() };
            let errors = |word: &str| match edge.errors {
                0 => String::new(),
                n => format!("{}{word}", count(n)),
            };
            let errors = [errors(" err"), errors("err")];
            let blank = if edge.errors == 0 { "" } else { " " };
            let long = p99.as_ref().map(|p99| format!(" p99 {p99}")).unwrap_or_default();
            let short = p99.map(|p99| format!(" {p99}")).unwrap_or_default();
            graph.links.push(Link {
                from,
                to,
                calls: edge.count,
                recent: edge.recent,
                labels: [
                    format!("{protocol}{rate}/s{blank}{}{long}", errors[0]),
                    format!("{protocol}{rate}/s{blank}{}{short}", errors[1]),
                ],
                errors,
            });
        }
        graph
    }
}

/// A box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whose.
    pub node: usize,
    /// Left.
    pub x: u16,
    /// Top.
    pub y: u16,
    /// Cells across, border included.
    pub width: u16,
    /// Cells down, border included.
    pub height: u16,
}

impl Placed {
    /// Whether a cell is in it or on its border.
    pub fn has(&self, (x, y): (u16, u16)) -> bool {
        (self.x..self.x + self.width).contains(&x) && (self.y..self.y + self.height).contains(&y)
    }
}

/// A line: its cells from the left box to the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Of which link.
    pub link: usize,
    /// Cells, each beside the one before.
    pub cells: Vec<(u16, u16)>,
    /// The asking end is the right one.
    pub reversed: bool,
}

/// What a text or a cell belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A box.
    Node(usize),
    /// A line.
    Link(usize),
}

/// A text in the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// First cell.
    pub at: (u16, u16),
    /// The text, safe to show.
    pub text: String,
    /// Whose.
    pub owner: Owner,
}

/// What had no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Boxes.
    pub nodes: u64,
    /// Calls to or from them.
    pub calls: u64,
    /// Those of the last seconds.
    pub recent: u64,
}

/// A picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Cells across.
    pub width: u16,
    /// Cells down.
    pub height: u16,
    /// Boxes.
    pub boxes: Vec<Placed>,
    /// Lines.
    pub paths: Vec<Path>,
    /// Names and labels.
    pub texts: Vec<Text>,
    /// Calls of a box to itself: they have no line, only a label in the box.
    pub own: Vec<usize>,
    /// What had no room.
    pub left_out: LeftOut,
    /// Which of the labels are shown: 1 = the short ones.
    pub form: usize,
}

/// The picture that fits: with as many of the busiest ends as there is room for. `None`: there is room for none.
pub fn picture(graph: &Graph, width: u16, height: u16) -> Option<Picture> {
    let mut busy = vec![0_u64; graph.nodes.len()];
    for link in &graph.links {
        busy[link.from] += link.calls;
        if link.to != link.from {
            busy[link.to] += link.calls;
        }
    }
    let mut order: Vec<usize> = (0..graph.nodes.len()).collect();
    order.sort_by_key(|&node| (std::cmp::Reverse(busy[node]), node));
    (1..=order.len().min(MAX_BOXES)).rev().find_map(|n| {
        let kept = &order[..n];
        let mut is_kept = vec![false; graph.nodes.len()];
        kept.iter().for_each(|&node| is_kept[node] = true);
        let links: Vec<usize> = (0..graph.links.len())
            .filter(|&i| is_kept[graph.links[i].from] && is_kept[graph.links[i].to])
            .collect();
        if links.len() > MAX_LINES {
            return None;
        }
        let mut picture = lay_out(graph, kept, &links, (width, height))?;
        let all = |f: fn(&Link) -> u64| graph.links.iter().map(f).sum::<u64>();
        let drawn = |f: fn(&Link) -> u64| links.iter().map(|&i| f(&graph.links[i])).sum::<u64>();
        picture.left_out = LeftOut {
            nodes: (order.len() - n) as u64,
            calls: all(|link| link.calls) - drawn(|link| link.calls),
            recent: all(|link| link.recent) - drawn(|link| link.recent),
        };
        Some(picture)
    })
}

/// A place in a layer: a box, or a line that passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Box(usize),
    Pass(usize),
}

/// A part of a line, from one layer to the next; ends are positions in their layers.
#[derive(Clone, Copy, Debug)]
struct Segment {
    link: usize,
    ends: [usize; 2],
    rows: [u16; 2],
}

/// Which links go against their direction, and the layer of each node.
fn layers(graph: &Graph, kept: &[usize], lines: &[usize]) -> (Vec<bool>, Vec<usize>) {
    let mut reversed = vec![false; graph.links.len()];
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    let mut asked = vec![false; graph.nodes.len()];
    for &link in lines {
        out[graph.links[link].from].push(link);
        asked[graph.links[link].to] = true;
    }
    // Those that nobody asks come first, then the busiest.
    let roots = kept.iter().filter(|&&node| !asked[node]).chain(kept);
    let (mut state, mut finished) = (vec![0_u8; graph.nodes.len()], Vec::new());
    for &root in roots {
        if state[root] != 0 {
            continue;
        }
        // What is on the way from the root, each with the next of its links.
        let mut way = vec![(root, 0)];
        state[root] = 1;
        while let Some((node, next)) = way.last_mut() {
            let Some(&link) = out[*node].get(*next) else {
                state[*node] = 2;
                finished.push(*node);
                way.pop();
                continue;
            };
            *next += 1;
            let to = graph.links[link].to;
            match state[to] {
                0 => {
                    state[to] = 1;
                    way.push((to, 0));
                }
                1 => reversed[link] = true,
                _ => {}
            }
        }
    }
    let ends = |link: usize| {
        let Link { from, to, .. } = graph.links[link];
        if reversed[link] { (to, from) } else { (from, to) }
    };
    let mut layer = vec![0; graph.nodes.len()];
    // What finished last stands before all that it leads to.
    for &node in finished.iter().rev() {
        for &link in lines {
            let (left, right) = ends(link);
            if left == node {
                layer[right] = layer[right].max(layer[left] + 1);
            }
        }
    }
    // Who is asked by nobody stands beside the first that it asks.
    for &node in kept {
        let is_root = lines.iter().all(|&link| ends(link).1 != node);
        let first = lines.iter().filter(|&&link| ends(link).0 == node).map(|&link| layer[ends(link).1]).min();
        if let (true, Some(first)) = (is_root, first) {
            layer[node] = first - 1;
        }
    }
    (reversed, layer)
}

/// Lays the links out among the kept nodes, if they fit.
fn lay_out(graph: &Graph, kept: &[usize], links: &[usize], (width, height): (u16, u16)) -> Option<Picture> {
    let (own, lines): (Vec<usize>, Vec<usize>) =
        links.iter().partition(|&&i| graph.links[i].from == graph.links[i].to);
    let (reversed, layer) = layers(graph, kept, &lines);
    let n_layers = kept.iter().map(|&node| layer[node]).max()? + 1;
    let ends = |link: usize| {
        let Link { from, to, .. } = graph.links[link];
        if reversed[link] { [to, from] } else { [from, to] }
    };

    // Who stands in which layer.
    let mut items: Vec<Vec<Item>> = vec![Vec::new(); n_layers];
    for &node in kept {
        items[layer[node]].push(Item::Box(node));
    }
    for &link in &lines {
        let [left, right] = ends(link).map(|node| layer[node]);
        for between in &mut items[left + 1..right] {
            between.push(Item::Pass(link));
        }
    }
    // What the order cannot change, so that it is not looked for in vain: rows of the ends, cells of the boxes and labels.
    let n_own = |node: usize| own.iter().filter(|&&link| graph.links[link].from == node).count();
    let size = |item: Item| {
        let Item::Box(node) = item else { return 1 };
        let [right, left] = [0, 1].map(|side| lines.iter().filter(|&&link| ends(link)[side] == node).count());
        // The name, then a row for each of its calls to itself.
        right.max(left).max(1).max((n_own(node) + 3) / 2)
    };
    let needed = |items: &Vec<Item>| items.iter().map(|&item| size(item)).sum::<usize>();
    if items.iter().map(needed).max()? * 2 + 1 > usize::from(height) {
        return None;
    }
    let box_widths = |items: &[Vec<Item>], widest: usize, form: usize| -> Vec<u16> {
        let width = |item: &Item| {
            let Item::Box(node) = *item else { return 1 };
            let own = own.iter().filter(|&&link| graph.links[link].from == node);
            let own = own.map(|&link| own_label(graph, link, form).width()).max().unwrap_or(0);
            graph.nodes[node].name.width().min(widest).max(own).max(1)
        };
        items.iter().map(|items| items.iter().map(width).max().unwrap_or(0) as u16 + 4).collect()
    };
    let widths = |items: &[Vec<Item>], (widest, form, _): (usize, usize, u16)| {
        let label = |at: usize| {
            let those = lines.iter().filter(|&&link| layer[ends(link)[0]] == at);
            those.map(|&link| graph.links[link].labels[form].width() as u16 + 2).max().unwrap_or(0)
        };
        let labels = (0..n_layers - 1).map(|at| label(at) + 3).collect();
        Widths { boxes: box_widths(items, widest, form), labels }
    };
    let tightest = widths(&items, LEVELS[LEVELS.len() - 1]);
    if tightest.boxes.iter().chain(&tightest.labels).map(|&w| usize::from(w)).sum::<usize>()
        > usize::from(width)
    {
        return None;
    }
    let neighbours = |items: &[Vec<Item>], at: usize, item: Item, side: usize| -> Vec<usize> {
        let beside = if side == 0 { at.wrapping_sub(1) } else { at + 1 };
        let Some(beside) = items.get(beside) else { return Vec::new() };
        let touches = |link: usize| match item {
            Item::Pass(pass) => pass == link,
            Item::Box(node) => ends(link)[1 - side] == node,
        };
        let position = |link: usize| {
            let end = ends(link)[side];
            beside.iter().position(|other| match *other {
                Item::Box(node) => node == end && layer[node] == if side == 0 { at - 1 } else { at + 1 },
                Item::Pass(pass) => pass == link,
            })
        };
        lines.iter().filter(|&&link| touches(link)).filter_map(|&link| position(link)).collect()
    };
    // Each beside the middle of those it is connected with, there and back a few times.
    for sweep in 0..6 {
        let (side, order): (usize, Vec<usize>) = if sweep % 2 == 0 {
            (0, (1..n_layers).collect())
        } else {
            (1, (0..n_layers - 1).rev().collect())
        };
        for at in order {
            let mut keyed: Vec<(u64, usize, Item)> = items[at]
                .iter()
                .enumerate()
                .map(|(i, &item)| {
                    let beside = neighbours(&items, at, item, side);
                    let key = match beside.len() as u64 {
                        0 => i as u64 * 1_000,
                        n => beside.iter().map(|&i| i as u64 * 1_000).sum::<u64>() / n,
                    };
                    (key, i, item)
                })
                .collect();
            keyed.sort_by_key(|&(key, i, _)| (key, i));
            items[at] = keyed.into_iter().map(|(.., item)| item).collect();
        }
    }
    let mut channels: Vec<Vec<Segment>> = vec![Vec::new(); n_layers.saturating_sub(1)];
    for &link in &lines {
        let [left, right] = ends(link);
        let position = |at: usize| {
            let item = match at {
                at if at == layer[left] => Item::Box(left),
                at if at == layer[right] => Item::Box(right),
                _ => Item::Pass(link),
            };
            items[at].iter().position(|other| *other == item)
        };
        let between = layer[left]..layer[right];
        for (at, channel) in between.clone().zip(&mut channels[between]) {
            channel.push(Segment { link, ends: [position(at)?, position(at + 1)?], rows: [0; 2] });
        }
    }

    // Slots: every second row.
    let sizes: Vec<Vec<usize>> =
        items.iter().map(|items| items.iter().map(|&item| size(item)).collect()).collect();
    // Two boxes have a row between them.
    let gap = |at: usize, i: usize| {
        usize::from(matches!((items[at][i], items[at].get(i + 1)), (Item::Box(_), Some(Item::Box(_)))))
    };
    let needed = |at: usize| (0..items[at].len()).map(|i| sizes[at][i] + gap(at, i)).sum::<usize>();
    let n_slots = (0..n_layers).map(needed).max()?;
    if n_slots * 2 + 1 > usize::from(height) {
        return None;
    }
    let mut first: Vec<Vec<usize>> = items.iter().map(|items| vec![0; items.len()]).collect();
    let place = |first: &mut Vec<Vec<usize>>, at: usize, side: usize| {
        let n = items[at].len();
        let mut latest = vec![0; n];
        let mut end = n_slots;
        for i in (0..n).rev() {
            latest[i] = end - sizes[at][i] - if i + 1 < n { gap(at, i) } else { 0 };
            end = latest[i];
        }
        let mut free = 0;
        for i in 0..n {
            let beside = neighbours(&items, at, items[at][i], side);
            let other = if side == 0 { at.wrapping_sub(1) } else { at + 1 };
            // Twice the middle, so that halves are not lost.
            let middles: Vec<usize> =
                beside.iter().map(|&j| 2 * first[other][j] + sizes[other][j] - 1).collect();
            let wanted = match middles.len() {
                0 => first[at][i],
                n => (middles.iter().sum::<usize>() / n).saturating_sub(sizes[at][i] - 1) / 2,
            };
            first[at][i] = wanted.clamp(free, latest[i].max(free));
            free = first[at][i] + sizes[at][i] + gap(at, i);
        }
    };
    (0..n_layers).for_each(|at| place(&mut first, at, 0));
    (0..n_layers - 1).rev().for_each(|at| place(&mut first, at, 1));
    (1..n_layers).for_each(|at| place(&mut first, at, 0));

    // Straight lines where that is possible; where two would lie on each other the layers' rows alternate.
    let plan = Plan { graph, own: &own, reversed: &reversed, items: &items, sizes: &sizes, first: &first };
    let by_rows: Vec<_> = [0, 1]
        .into_iter()
        .filter(|&shift| n_slots * 2 + 1 + usize::from(shift) <= usize::from(height))
        .filter_map(|shift| plan.rows(&channels, shift))
        .collect();
    LEVELS.iter().find_map(|&level| {
        let widths = widths(&items, level);
        by_rows.iter().find_map(|rows| plan.draw(rows, level, &widths, (width, height)))
    })
}

/// Cells across, of each layer's boxes and of what stands between two layers, without the columns of the turns.
struct Widths {
    boxes: Vec<u16>,
    labels: Vec<u16>,
}

/// Segments with the rows of their ends, and the columns of their turns, channel by channel.
struct Rows {
    shift: u16,
    channels: Vec<Vec<Segment>>,
    tracks: Vec<Vec<Option<u16>>>,
}

impl Rows {
    fn row(&self, at: usize, slot: usize) -> u16 {
        slot as u16 * 2 + 1 + if at % 2 == 1 { self.shift } else { 0 }
    }
}

/// Who stands where.
struct Plan<'a> {
    graph: &'a Graph,
    own: &'a [usize],
    reversed: &'a [bool],
    items: &'a [Vec<Item>],
    sizes: &'a [Vec<usize>],
    first: &'a [Vec<usize>],
}

impl Plan<'_> {
    /// The rows of the ends, in the order of where they lead. `None`: two lines would lie on each other.
    fn rows(&self, channels: &[Vec<Segment>], shift: u16) -> Option<Rows> {
        let mut rows = Rows { shift, channels: channels.to_vec(), tracks: Vec::new() };
        for (at, channel) in channels.iter().enumerate() {
            for side in [0, 1] {
                let (here, there) = (at + side, at + 1 - side);
                for (i, first) in self.first[here].iter().enumerate() {
                    let mut those: Vec<usize> =
                        (0..channel.len()).filter(|&s| channel[s].ends[side] == i).collect();
                    those.sort_by_key(|&s| (self.first[there][channel[s].ends[1 - side]], channel[s].link));
                    for (port, &s) in those.iter().enumerate() {
                        rows.channels[at][s].rows[side] = rows.row(here, first + port);
                    }
                }
            }
            rows.tracks.push(tracks(&rows.channels[at])?);
        }
        Some(rows)
    }

    /// The picture, if it is not wider or higher than this.
    fn draw(
        &self,
        rows: &Rows,
        (_, form, pitch): (usize, usize, u16),
        widths: &Widths,
        (width, height): (u16, u16),
    ) -> Option<Picture> {
        let Plan { graph, own, reversed, items, sizes, first } = *self;
        let mut picture = Picture { own: own.to_vec(), form, ..Picture::default() };
        let mut x = 0_u16;
        let mut paths: BTreeMap<usize, Vec<(u16, u16)>> = BTreeMap::new();
        for (at, &box_width) in widths.boxes.iter().enumerate() {
            if x.checked_add(box_width)? > width {
                return None;
            }
            for (i, item) in items[at].iter().enumerate() {
                let y = rows.row(at, first[at][i]);
                match *item {
                    Item::Box(node) => {
                        let height = sizes[at][i] as u16 * 2 + 1;
                        picture.boxes.push(Placed { node, x, y: y - 1, width: box_width, height });
                        let name = fit(&graph.nodes[node].name, usize::from(box_width - 4), Align::Left);
                        let owner = Owner::Node(node);
                        picture.texts.push(Text { at: (x + 2, y), text: name.trim_end().to_owned(), owner });
                        let own = own.iter().filter(|&&link| graph.links[link].from == node);
                        picture.texts.extend(own.enumerate().map(|(n, &link)| Text {
                            at: (x + 2, y + 1 + n as u16),
                            text: own_label(graph, link, form),
                            owner: Owner::Link(link),
                        }));
                    }
                    Item::Pass(link) => {
                        let cells = paths.entry(link).or_default();
                        cells.extend((x..x + box_width).map(|x| (x, y)));
                    }
                }
            }
            x += box_width;
            let (Some(channel), Some(tracks)) = (rows.channels.get(at), rows.tracks.get(at)) else { break };
            let n_tracks = tracks.iter().flatten().count() as u16;
            // A cell of line before the label, and at least one and the head behind the last turn.
            let end = x + widths.labels[at] + n_tracks * pitch;
            let first_track = x + widths.labels[at] - 2;
            for (segment, track) in channel.iter().zip(tracks) {
                let [left, right] = segment.rows;
                if matches!(items[at][segment.ends[0]], Item::Box(_)) {
                    picture.texts.push(Text {
                        at: (x + 1, left),
                        text: format!(" {} ", graph.links[segment.link].labels[form]),
                        owner: Owner::Link(segment.link),
                    });
                }
                let cells = paths.entry(segment.link).or_default();
                match track {
                    None => cells.extend((x..end).map(|x| (x, left))),
                    Some(track) => {
                        let turn = first_track + track * pitch;
                        cells.extend((x..turn).map(|x| (x, left)));
                        if left < right {
                            cells.extend((left..=right).map(|y| (turn, y)));
                        } else {
                            cells.extend((right..=left).rev().map(|y| (turn, y)));
                        }
                        cells.extend((turn + 1..end).map(|x| (x, right)));
                    }
                }
            }
            x = end;
        }
        let path = |(link, cells)| Path { link, cells, reversed: reversed[link] };
        picture.paths = paths.into_iter().map(path).collect();
        picture.width = x;
        picture.height = picture
            .boxes
            .iter()
            .map(|placed| placed.y + placed.height)
            .chain(picture.paths.iter().flat_map(|path| &path.cells).map(|(_, y)| y + 1))
            .max()?;
        (picture.width <= width && picture.height <= height).then_some(picture)
    }
}

/// What a box says of its calls to itself.
fn own_label(graph: &Graph, link: usize, form: usize) -> String {
    format!("itself {}", graph.links[link].labels[form])
}

/// The column of each segment's turn, from the left; `None` = it is straight. A line that arrives on the row on which another leaves
/// turns behind that one. `None` for all: there is no such order.
fn tracks(channel: &[Segment]) -> Option<Vec<Option<u16>>> {
    let mut tracks = vec![None; channel.len()];
    let mut open: Vec<usize> =
        (0..channel.len()).filter(|&s| channel[s].rows[0] != channel[s].rows[1]).collect();
    if channel.iter().any(|straight| {
        let [left, right] = straight.rows;
        left == right && channel.iter().filter(|other| other.rows.contains(&left)).count() != 1
    }) {
        return None;
    }
    // Lines that go down turn the lower the sooner, those that go up the higher the sooner: fewest crossings.
    open.sort_by_key(|&s| {
        let [left, right] = channel[s].rows;
        (if left < right { -i32::from(left) } else { i32::from(left) }, channel[s].link)
    });
    let mut next = 0;
    while !open.is_empty() {
        let is_free = |&s: &usize| {
            !open.iter().any(|&other| other != s && channel[other].rows[0] == channel[s].rows[1])
        };
        let at = open.iter().position(is_free)?;
        tracks[open.remove(at)] = Some(next);
        next += 1;
    }
    Some(tracks)
}

const UP: u8 = 1;
const DOWN: u8 = 2;
const LEFT: u8 = 4;
const RIGHT: u8 = 8;

impl LeftOut {
    /// The line below a picture; `rate`: a number of recent calls as a rate. Empty where nothing was left out.
    pub fn line(&self, rate: impl Fn(u64) -> String) -> String {
        match self.nodes {
            0 => String::new(),
            n => format!("+ {} more ({} calls, {}/s)", count(n), count(self.calls), rate(self.recent)),
        }
    }
}

impl Picture {
    /// The lines and borders: cell, character, whose it is. A later one stands over an earlier one.
    pub fn strokes(&self, nodes: &[Node], symbols: Symbols) -> Vec<((u16, u16), char, Owner)> {
        let ascii = symbols == Symbols::Ascii;
        let mut strokes = Vec::new();
        for placed in &self.boxes {
            let Placed { node, x, y, width, height } = *placed;
            let (right, bottom) = (x + width - 1, y + height - 1);
            let (across, down) = match (ascii, nodes.get(node).is_some_and(|node| node.unseen)) {
                (false, false) => ('─', '│'),
                (false, true) => ('╌', '╎'),
                (true, false) => ('-', '|'),
                (true, true) => ('.', ':'),
            };
            let corners = if ascii { ['+'; 4] } else { ['┌', '┐', '└', '┘'] };
            let owner = Owner::Node(node);
            for (at, c) in [(x, y), (right, y), (x, bottom), (right, bottom)].into_iter().zip(corners) {
                strokes.push((at, c, owner));
            }
            strokes
                .extend((x + 1..right).flat_map(|x| [((x, y), across, owner), ((x, bottom), across, owner)]));
            strokes.extend((y + 1..bottom).flat_map(|y| [((x, y), down, owner), ((right, y), down, owner)]));
        }
        let mut ways: BTreeMap<(u16, u16), u8> = BTreeMap::new();
        for path in &self.paths {
            let way = |a: (u16, u16), b: (u16, u16)| match (b.0 as i32 - a.0 as i32, b.1 as i32 - a.1 as i32)
            {
                (0, dy) if dy < 0 => UP,
                (0, _) => DOWN,
                (dx, _) if dx < 0 => LEFT,
                _ => RIGHT,
            };
            for (i, &cell) in path.cells.iter().enumerate() {
                let before = i.checked_sub(1).map_or(LEFT, |i| way(cell, path.cells[i]));
                let behind = path.cells.get(i + 1).map_or(RIGHT, |next| way(cell, *next));
                let ways = ways.entry(cell).or_default();
                *ways |= before | behind;
                strokes.push((cell, stroke(*ways, ascii), Owner::Link(path.link)));
            }
            let (Some(&first), Some(&last)) = (path.cells.first(), path.cells.last()) else { continue };
            let owner = Owner::Link(path.link);
            let (head, root) = if path.reversed {
                (
                    (first, if ascii { '<' } else { '◀' }),
                    ((last.0 + 1, last.1), if ascii { '|' } else { '┤' }),
                )
            } else {
                (
                    (last, if ascii { '>' } else { '▶' }),
                    ((first.0 - 1, first.1), if ascii { '|' } else { '├' }),
                )
            };
            strokes.extend([(head.0, head.1, owner), (root.0, root.1, owner)]);
        }
        strokes
    }

    /// The picture as text, one line for each row.
    pub fn lines(&self, nodes: &[Node], symbols: Symbols) -> Vec<String> {
        let blank = vec![' '; usize::from(self.width)];
        let mut cells = vec![blank; usize::from(self.height)];
        for ((x, y), c, _) in self.strokes(nodes, symbols) {
            cells[usize::from(y)][usize::from(x)] = c;
        }
        (0_u16..)
            .zip(cells)
            .map(|(y, row)| {
                let mut texts: Vec<&Text> = self.texts.iter().filter(|text| text.at.1 == y).collect();
                texts.sort_by_key(|text| text.at.0);
                let (mut line, mut x) = (String::new(), 0);
                for text in texts {
                    line.extend(row.iter().take(usize::from(text.at.0)).skip(x));
                    line.push_str(&text.text);
                    x = usize::from(text.at.0) + text.text.width();
                }
                line.extend(row.iter().skip(x));
                line.trim_end().to_owned()
            })
            .collect()
    }
}

fn stroke(ways: u8, ascii: bool) -> char {
    match (ways, ascii) {
        (w, false) if w == UP | DOWN => '│',
        (w, false) if w == LEFT | RIGHT => '─',
        (w, false) if w == LEFT | DOWN => '┐',
        (w, false) if w == LEFT | UP => '┘',
        (w, false) if w == RIGHT | DOWN => '┌',
        (w, false) if w == RIGHT | UP => '└',
        (_, false) => '┼',
        // Where two cross, the one that goes down is drawn through.
        (w, true) if w == UP | DOWN || w == UP | DOWN | LEFT | RIGHT => '|',
        (w, true) if w == LEFT | RIGHT => '-',
        (_, true) => '+',
    }
}

//! One transaction: where its time went, who took part, what happened on its connection before and after.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthChar as _;

use super::{anatomy, list::status, operations::role_letter, profile, stacks};
use crate::{
    event::{Role, StackEnd},
    pipeline::Step,
    protocol::TlsFacts,
    report::{
        format::{Align, clock, count, duration, fit},
        head,
        trace::{Marks, Trace},
    },
    sink::xlog::Class,
    source::heads::Head,
    text::{data_text, screen_bytes, screen_text},
    time::WallTime,
    transaction::{CallId, CallStack, End, Kind, Transaction},
    tui::{
        app::App,
        call_tree::{MAX_SHOWN, TreeStep},
        edges::address,
        flight::Flight,
        heads::ShownHeads,
        model::Model,
        palette::Palette,
        theme::{Colours, Symbols, Theme},
    },
};

/// Columns of the text that is written to a file.
const TEXT_WIDTH: u16 = 120;
/// Columns of the names on the left.
const NAMES: usize = 12;

/// A part of the elapsed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Part {
    /// Its name.
    pub(in crate::tui) name: &'static str,
    /// Where it begins.
    pub(in crate::tui) from: WallTime,
    /// Where it ends.
    pub(in crate::tui) to: WallTime,
}

/// The parts that are known, in order. Before the start: the queue. They may overlap where a response came early.
pub(in crate::tui) fn parts(transaction: &Transaction) -> Vec<Part> {
    let start = transaction.start_time;
    let mut parts = Vec::new();
    let mut part = |name, from: WallTime, to: WallTime| {
        if from <= to {
            parts.push(Part { name, from, to });
        }
    };
    if let Some(queue) = transaction.queue_ns {
        part("queued", WallTime(start.0.saturating_sub(queue)), start);
    }
    if let Some(request_end) = transaction.request_end {
        part("reading", start, request_end);
        if let Some(response_start) = transaction.response_start {
            part("waiting", request_end, response_start);
        } else {
            part("waiting", request_end, transaction.end_time);
        }
    }
    if let Some(response_start) = transaction.response_start {
        part("sending", response_start, transaction.end_time);
    }
    parts
}

/// The lines of the view.
pub(super) fn lines(
    model: &Model,
    app: &App,
    shown: &Transaction,
    width: u16,
    theme: Theme,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let named = |name: &str, text: String| {
        Line::from(vec![Span::styled(fit(name, NAMES, Align::Left), theme.dim()), Span::raw(text)])
    };
    let class = match Class::of(shown) {
        Class::Normal => theme.heading(),
        class => theme.class(class),
    };
    let role = match role_letter(shown.role) {
        "C" => "made by",
        "S" => "served by",
        _ => "of",
    };
    let flight = app.followed();
    let elapsed = shown.duration_ns.max(0).unsigned_abs();
    // It is no part of the elapsed time, but of what whoever asked has waited for.
    let queued = shown.queue_ns.filter(|queue| *queue >= elapsed / 10);
    let queued = queued.map(|queue| format!("  after {} queued", duration(queue))).unwrap_or_default();
    let title = format!(
        "{}  {}  {}{queued}  {role} {}",
        screen_text(&shown.operation),
        flight.map_or_else(|| status(shown), |flight| flight.open.step_name().to_owned()),
        if flight.is_some() { format!("{} so far", duration(elapsed)) } else { duration(elapsed) },
        screen_text(&shown.service),
    );
    let class = flight.map_or(class, |flight| in_flight(flight, model, theme));
    lines.push(Line::from(Span::styled(title, class)));
    if let Some(target) = &shown.target {
        lines.push(named("target", head::target(target)));
    }
    if let Some(namespace) = &shown.namespace {
        lines.push(named("namespace", screen_text(&data_text(namespace)).into_owned()));
    }
    lines.push(Line::default());
    let is_call = shown.kind == Kind::Function;
    if !is_call {
        lines.extend(waterfall(shown, flight.is_some(), width, theme));
        lines.push(Line::default());
        lines.extend(heads(&model.heads, flight.is_none_or(Flight::is_answered), width, theme));
        lines.push(Line::default());
    }
    if let Some(call) = &shown.call {
        lines.push(named("function", screen_text(&call.function).into_owned()));
        lines.push(named("arguments", screen_text(&call.arguments).into_owned()));
        if let Some(returned) = &call.returned {
            lines.push(named("returned", screen_text(returned).into_owned()));
        }
        lines.push(named("self", duration(call.self_ns)));
        let of = |id: Option<CallId>| id.map_or_else(|| "none known".to_owned(), |id| id.to_string());
        lines.push(named("within", format!("{}  request {}", of(call.parent), of(call.root))));
        lines.push(Line::default());
    }
    lines.extend(anatomy::lines(shown, theme));
    lines.extend(profile::lines(shown, &model.profile, theme));
    lines.extend(stacks::lines(shown, theme));
    if flight.is_none() {
        lines.extend(trace(&model.trace, width, theme));
    }
    lines.extend(tree(model, shown, theme));
    if let Some(stack) = shown.call.as_ref().and_then(|call| call.stack.as_ref()) {
        lines.extend(self::stack(stack, theme));
    }
    lines.push(named("start", instant(shown.start_time)));
    match flight {
        None => lines.push(named("end", instant(shown.end_time))),
        Some(flight) => {
            lines.push(named("seen", instant(shown.end_time)));
            lines.push(named("step", step(flight).to_owned()));
            let thread = (flight.open.pid, flight.open.tid);
            if let Some(now) = model.threads.as_ref().filter(|_| !flight.is_gone) {
                let doing = now.doing.get(&thread);
                lines.extend(doing.map(|doing| named("now", screen_text(&doing.sentence()).into_owned())));
                for asked in model.open.iter().filter(|open| open.role == Role::Client) {
                    if (asked.pid, asked.tid) == thread {
                        let so_far = asked.so_far();
                        let peer = self::address(&so_far.server_addr, so_far.server_port);
                        let request = screen_bytes(&asked.request());
                        let age = duration(asked.age_ns);
                        lines.push(named("asks", format!("{}: {request}, for {age}", screen_text(&peer))));
                    }
                }
                lines.extend(now.stack.iter().flat_map(|stack| self::stack(stack, theme)));
            }
        }
    }
    let address = |text: &str, port| screen_text(&address(text, port)).into_owned();
    if !is_call {
        lines.push(named("client", address(&shown.client_addr, shown.client_port)));
        lines.push(named("server", address(&shown.server_addr, shown.server_port)));
    }
    if let Some(facts) = &shown.tls {
        lines.push(named("tls", tls(facts)));
    }
    if let Some(id) = &shown.trace_id {
        lines.push(named("trace id", screen_text(id).into_owned()));
    }
    let Transaction { pid, tid, .. } = shown;
    lines.push(named("thread", format!("{}  pid {pid}  tid {tid}", screen_text(&shown.comm))));
    if !is_call {
        lines.push(named(
            "bytes",
            format!("{} request  {} response", count(shown.request_bytes), count(shown.response_bytes)),
        ));
    }
    let of = |what: &str, n: Option<u64>| n.map_or_else(String::new, |n| format!("{} {what}  ", count(n)));
    let [sent, received, rows] = [
        of("in the request", shown.request_messages),
        of("in the response", shown.response_messages),
        of("returned or changed", shown.rows),
    ];
    if !sent.is_empty() || !received.is_empty() {
        lines.push(named("messages", format!("{sent}{received}").trim_end().to_owned()));
    }
    if let Some(network) = shown.network {
        let rtt = network.rtt_ns().map_or_else(|| "not known".to_owned(), duration);
        let n = network.retransmits;
        lines.push(named("network", format!("round trip {rtt}  {} segments sent again", count(n.into()))));
    }
    if !rows.is_empty() {
        lines.push(named("rows", rows.trim_end().to_owned()));
    }
    let error = shown.error_type.as_deref().map(|kind| format!("  error {}", screen_text(kind)));
    if flight.is_none() {
        lines.push(named("outcome", format!("{}{}", shown.end.as_str(), error.unwrap_or_default())));
    }
    if let Some(message) = &shown.error_message {
        lines.push(named("message", screen_text(&data_text(message)).into_owned()));
    }
    lines.push(named(
        "confidence",
        format!("{}  time_basis {}", shown.confidence.as_str(), shown.time_basis.as_str()),
    ));
    if is_call {
        lines.push(named("kind", shown.kind.as_str().to_owned()));
    } else {
        lines.push(named("protocol", format!("{}  {}", shown.protocol, shown.kind.as_str())));
    }
    let number = if flight.is_some() { String::new() } else { format!("  number {}", count(shown.seq)) };
    lines.push(named("id", format!("{}{number}", shown.id())));
    lines.push(Line::default());
    let more = if model.neighbours_cut { ", the nearest" } else { "" };
    let place = if is_call { "of the same thread" } else { "on the same connection" };
    let heading = format!("{place}{more}");
    lines.push(Line::from(Span::styled(heading, theme.heading())));
    if model.neighbours.is_empty() {
        lines.push(Line::from(Span::styled("nothing else that is kept", theme.dim())));
    }
    for (i, row) in model.neighbours.iter().enumerate() {
        let is_shown = flight.is_none() && row.seq == shown.seq;
        let mark = if is_shown { "▸" } else { " " };
        let text = format!(
            "{mark} {}.{:06} {} {} {}",
            clock(row.start_time),
            row.start_time.0 / 1_000 % 1_000_000,
            fit(&duration(row.duration_ns.max(0).unsigned_abs()), 8, Align::Right),
            fit(&status(row), 8, Align::Right),
            screen_text(&row.operation),
        );
        let style = if is_shown { theme.heading() } else { Style::new() };
        let other = model.neighbours_ends.get(i).and_then(Option::as_ref);
        let text = match other {
            Some(other) => format!("{text}  {}", other_end(row, other, theme)),
            None => text,
        };
        lines.push(Line::from(Span::styled(text, style)));
        if let Some(other) = other.filter(|_| app.unfold_detail) {
            let text = format!(
                "  {}.{:06} {} {} {} {} {}",
                clock(other.start_time),
                other.start_time.0 / 1_000 % 1_000_000,
                fit(&duration(other.duration_ns.max(0).unsigned_abs()), 8, Align::Right),
                fit(&status(other), 8, Align::Right),
                role_letter(other.role),
                screen_text(&other.service),
                screen_text(&other.operation),
            );
            lines.push(Line::from(Span::styled(text, theme.dim())));
        }
    }
    lines
}

/// All requests that belong together with it, where there are others.
fn trace(trace: &Trace, width: u16, theme: Theme) -> Vec<Line<'static>> {
    if trace.spans.len() < 2 {
        return Vec::new();
    }
    let marks = if theme.symbols == Symbols::Ascii { Marks::ASCII } else { Marks::UNICODE };
    let mut lines = vec![Line::from(Span::styled(Trace::heading(), theme.heading()))];
    for line in trace.waterfall(usize::from(width), marks).into_iter().take(MAX_SHOWN) {
        let text = if line.is_guess { theme.dim() } else { Style::new() };
        let bar = if line.is_critical { theme.heading() } else { theme.dim() };
        lines.push(Line::from(vec![
            Span::styled(line.text, text),
            Span::styled(format!(" {}", line.bar), bar),
        ]));
    }
    if let Some(more) = trace.spans.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
        let text = format!("+ {} more: txray trace prints all of them", count(more as u64));
        lines.push(Line::from(Span::styled(text, theme.heading())));
    }
    lines.extend(trace.notes(marks).into_iter().map(|note| Line::from(Span::styled(note, theme.dim()))));
    lines.push(Line::default());
    lines
}

/// Calls of functions within it: number of the call around, own number, when, what lies before it, how long, how long by itself.
fn tree(model: &Model, shown: &Transaction, theme: Theme) -> Vec<Line<'static>> {
    let tree = &model.call_tree;
    if tree.steps.is_empty() {
        return Vec::new();
    }
    let elapsed = shown.duration_ns.max(0).unsigned_abs();
    let heading = "  p#    #  time                  gap     exec     self  call";
    let mut lines = vec![Line::from(Span::styled(heading, theme.heading()))];
    for (i, step) in tree.steps.iter().enumerate() {
        let TreeStep { row, depth, parent, gap_ns } = step;
        let time = |ns| fit(&duration(ns), 8, Align::Right);
        let call = row.call.as_deref();
        let mut text =
            format!("{}{}", "  ".repeat(depth.saturating_sub(1).min(20)), screen_text(&row.operation));
        if let Some(arguments) = call.map(|call| &*call.arguments).filter(|arguments| *arguments != "[]") {
            text.push_str(&format!("  {}", screen_text(arguments)));
        }
        if let Some(returned) = call.and_then(|call| call.returned.as_deref()) {
            text.push_str(&format!(" = {}", screen_text(returned)));
        }
        if row.end != End::Answered {
            text.push_str(&format!("  {}", row.end.as_str()));
        }
        // Of the whole: half of it is what one looks for, a tenth is worth a look.
        let gap = match (u128::from(*gap_ns) * 100).checked_div(u128::from(elapsed)).unwrap_or(0) {
            51.. => theme.class(Class::Error),
            11.. => theme.heading(),
            _ => Style::new(),
        };
        let at = row.start_time.0 / 1_000 % 1_000_000;
        lines.push(Line::from(vec![
            Span::styled(format!("{parent:>4} {:>4}  ", i + 1), theme.dim()),
            Span::raw(format!("{}.{at:06} ", clock(row.start_time))),
            Span::styled(time(*gap_ns), gap),
            Span::raw(format!(
                " {} {}  {text}",
                time(row.duration_ns.max(0).unsigned_abs()),
                time(call.map_or(row.duration_ns.max(0).unsigned_abs(), |call| call.self_ns))
            )),
        ]));
    }
    if tree.n_more > 0 {
        let text = format!("+ {} more, Σ {}", count(tree.n_more), duration(tree.more_self_ns));
        lines.push(Line::from(Span::styled(text, theme.heading())));
    }
    lines.push(Line::default());
    lines
}

/// Who called it, the innermost first.
fn stack(stack: &CallStack, theme: Theme) -> Vec<Line<'static>> {
    let frames: Vec<String> = serde_json::from_str(&stack.frames).unwrap_or_default();
    let end = match stack.end {
        StackEnd::Complete => "",
        StackEnd::Truncated => "more: only so many are told",
        StackEnd::UnknownCaller => {
            "what called this is not known: nothing says how its code finds its caller"
        }
        StackEnd::Unreadable => "what called this could not be read",
        StackEnd::Unresolved => "addresses: what the process ran could not be read any more",
    };
    let mut lines = vec![Line::from(Span::styled("called from", theme.heading()))];
    lines.extend(frames.iter().map(|frame| Line::from(format!("  {}", screen_text(frame)))));
    if !end.is_empty() {
        lines.push(Line::from(Span::styled(format!("  {end}"), theme.dim())));
    }
    lines.push(Line::default());
    lines
}

/// What is known of the connection's TLS.
fn tls(facts: &TlsFacts) -> String {
    let TlsFacts { library, version, sni, alpn } = facts;
    let known = [("", version), ("sni ", sni), ("alpn ", alpn), ("in ", library)].into_iter();
    let known = known.filter_map(|(name, text)| Some(format!("{name}{}", screen_text(text.as_deref()?))));
    known.collect::<Vec<_>>().join("  ")
}

/// How far a request in flight is, in a sentence.
fn step(flight: &Flight) -> &'static str {
    let Flight { open, is_gone, .. } = flight;
    match (is_gone, open.kind, open.step) {
        (true, ..) => "no longer in flight; its transaction is not here: yet to come, left out, or too old",
        (_, Kind::LongLived, _) => "open: meant to be open for long",
        (_, _, Step::Reading) => "reading: the last byte of the request has not been seen",
        (_, _, Step::Waiting) => "waiting: the answer has not begun",
        (_, _, Step::Sending) => "sending: the last byte of the answer has not been seen",
    }
}

/// As in the list of requests in flight.
fn in_flight(flight: &Flight, model: &Model, theme: Theme) -> Style {
    match (flight.open.kind, model.age_steps.class(flight.open.age_ns)) {
        (Kind::LongLived, _) => theme.dim(),
        (_, 0) => theme.heading(),
        (_, class) => theme.step(class, model.age_steps.n_classes()).1,
    }
}

/// The same as text.
pub(in crate::tui) fn detail_text(model: &Model, app: &App, shown: &Transaction) -> String {
    let theme = Theme { colours: Colours::None, symbols: Symbols::Unicode, palette: Palette::DEFAULT };
    let lines = lines(model, app, shown, TEXT_WIDTH, theme).into_iter();
    lines.map(|line| format!("{line}").trim_end().to_owned() + "\n").collect()
}

/// The service at the other end of a local call, and by how much the two ends differ.
fn other_end(row: &Transaction, other: &Transaction, theme: Theme) -> String {
    let (mark, difference) = if theme.symbols == Symbols::Ascii { ("=", "+-") } else { ("⇄", "±") };
    let ns = row.duration_ns.abs_diff(other.duration_ns);
    format!("{mark} {} {difference}{}", screen_text(&other.service), duration(ns))
}

/// An instant to the nanosecond.
fn instant(at: WallTime) -> String {
    format!("{}.{:09} UTC", clock(at), at.0 % 1_000_000_000)
}

/// The heads, without what is secret in them. A line that is too long goes on in the next one. `answered`: the response has begun.
fn heads(heads: &ShownHeads, answered: bool, width: u16, theme: Theme) -> Vec<Line<'static>> {
    let said = |text: String| vec![Line::from(Span::styled(text, theme.dim()))];
    let heads = match heads {
        ShownHeads::NoRecording => {
            return said(ShownHeads::HOW_TO_HAVE_THEM.to_owned());
        }
        ShownHeads::NotText => {
            return said("what this protocol says is not shown: there are values in it".to_owned());
        }
        ShownHeads::Loading => return said("request head, response head: …".to_owned()),
        ShownHeads::Failed(error) => return said(format!("no heads: {}", screen_text(error))),
        ShownHeads::Known(heads) => heads,
    };
    let mut lines = Vec::new();
    for (name, head) in [("request head", &heads.request), ("response head", &heads.response)] {
        let (bytes, note) = match head {
            // A recording may hold what was to come.
            _ if name == "response head" && !answered => (&[][..], "  the answer has not begun"),
            Head::NotFound => (&[][..], "  the recording does not hold it"),
            Head::Whole(bytes) => (&bytes[..], ""),
            Head::Cut(bytes) => (&bytes[..], "  cut: the rest was not captured, or is too long"),
        };
        lines.push(Line::from(vec![Span::styled(name, theme.heading()), Span::styled(note, theme.dim())]));
        for line in head::lines(bytes) {
            let room = usize::from(width).saturating_sub(2).max(8);
            lines.extend(wrapped(&line, room).into_iter().map(|part| Line::from(format!("  {part}"))));
        }
    }
    lines
}

/// Text in pieces that are no wider than `room`, one at least.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut used = 0;
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if used + width > room {
            pieces.push(String::new());
            used = 0;
        }
        used += width;
        if let Some(last) = pieces.last_mut() {
            last.push(c);
        }
    }
    pieces
}

/// One bar for each part, on one axis. `open`: the last one goes on.
fn waterfall(shown: &Transaction, open: bool, width: u16, theme: Theme) -> Vec<Line<'static>> {
    let mut parts = parts(shown);
    if open && shown.request_end.is_none() && shown.response_start.is_none() {
        parts.push(Part { name: "reading", from: shown.start_time, to: shown.end_time });
    }
    let from =
        parts.iter().map(|part| part.from.0).min().unwrap_or(shown.start_time.0).min(shown.start_time.0);
    let to = shown.end_time.0.max(from + 1);
    let room = usize::from(width).saturating_sub(NAMES + 10).clamp(8, 120);
    let column = |at: u64| ((at - from) as u128 * room as u128 / u128::from(to - from)) as usize;
    let mut lines: Vec<Line<'static>> = Vec::new();
    let n_parts = parts.len();
    for (i, part) in parts.into_iter().enumerate() {
        let first = column(part.from.0).min(room - 1);
        // Every part that is there has a cell.
        let last = column(part.to.0.min(to)).clamp(first + 1, room);
        let mut bar: String = std::iter::repeat_n(theme.level(8), last - first).collect();
        if open && i + 1 == n_parts {
            bar.push_str(if theme.symbols == Symbols::Ascii { ">" } else { "▸" });
        }
        lines.push(Line::from(vec![
            Span::styled(fit(part.name, NAMES, Align::Left), theme.dim()),
            Span::raw(format!("{} ", fit(&duration(part.to.0 - part.from.0), 8, Align::Right))),
            Span::raw(" ".repeat(first)),
            Span::styled(bar, theme.part(part.name)),
        ]));
    }
    if lines.is_empty() {
        lines.push(Line::from(Span::styled("where the time went was not seen", theme.dim())));
    }
    lines
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let Some(shown) = app.opened() else { return };
    let lines = lines(model, app, shown, area.width, theme);
    let first = usize::from(app.scroll).min(lines.len().saturating_sub(usize::from(area.height)));
    for (y, line) in (area.y..area.bottom()).zip(lines.iter().skip(first)) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn the_parts_of_a_whole_transaction_follow_each_other_from_the_queue_to_the_end() {
        let shown = Transaction { queue_ns: Some(5_000), ..transaction(3) };
        let parts = parts(&shown);
        let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
        assert_eq!(names, ["queued", "reading", "waiting", "sending"]);
        assert!(parts.windows(2).all(|pair| pair[0].to == pair[1].from));
        let within = parts[1..].iter().map(|part| part.to.0 - part.from.0).sum::<u64>();
        assert_eq!(within as i64, shown.duration_ns);
    }

    #[test]
    fn what_was_not_seen_is_no_part() {
        let unanswered = Transaction { response_start: None, ..transaction(3) };
        assert_eq!(
            parts(&unanswered).last().map(|part| (part.name, part.to)),
            Some(("waiting", unanswered.end_time))
        );
        let blind = Transaction { request_end: None, response_start: None, ..transaction(3) };
        assert_eq!(parts(&blind), []);
    }
}

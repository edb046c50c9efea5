//! Layouts that are kept: what the screen shows, by name and by the number of a preset. Those that the screen saves are in a file of its own, so
//! that what people write stays as they wrote it.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    app::{App, WINDOWS_NS},
    axis::{Axis, TOPS_NS},
    chart::{Density, Scale},
    columns::{Columns, ListColumn, OperationColumn},
    keys::PRESETS,
    table::{Fault, Item, Reader},
    view::{ListSort, Roles, Sort, View},
};
use crate::{
    config::{SettingsFile, Span},
    report::filter::{Filter, Thresholds},
    text::screen_text,
};

/// The file that txray alone writes.
pub const LAYOUTS_FILE: &str = "layouts.toml";
/// Layouts in one file.
const MAX_LAYOUTS: usize = 64;
/// Characters of a name.
const MAX_NAME: usize = 32;

const SCALES: [(Scale, &str); 2] = [(Scale::Log, "log"), (Scale::Linear, "linear")];
const ROLES: [(Roles, &str); 3] =
    [(Roles::Servers, "served"), (Roles::Clients, "made"), (Roles::Both, "both")];
const DENSITIES: [(Option<Density>, &str); 3] =
    [(None, "fit"), (Some(Density::Heat), "heat"), (Some(Density::Scatter), "dots")];

fn views() -> Vec<(View, &'static str)> {
    View::ALL.iter().map(|view| (*view, view.name())).collect()
}

fn sorts() -> Vec<(Sort, &'static str)> {
    let mut sorts = vec![(Sort::default(), Sort::default().column())];
    while let Some(next) = sorts.last().map(|(sort, _)| sort.next()).filter(|next| *next != Sort::default()) {
        sorts.push((next, next.column()));
    }
    sorts
}

fn list_sorts() -> Vec<(ListSort, &'static str)> {
    let first = ListSort::default();
    let mut sorts = vec![(first, first.column())];
    while let Some(next) = sorts.last().map(|(sort, _)| sort.next()).filter(|next| *next != first) {
        sorts.push((next, next.column()));
    }
    sorts
}

/// A layout that is kept. What it does not say is as at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedLayout {
    /// What it is called.
    pub name: String,
    /// Number of its preset, 1 to 9.
    pub preset: Option<u8>,
    /// The view.
    pub view: Option<View>,
    /// Time across the XLog, ns.
    pub window_ns: Option<u64>,
    /// Elapsed axis.
    pub scale: Option<Scale>,
    /// Elapsed at its top, ns.
    pub top_ns: Option<u64>,
    /// Whose dots.
    pub roles: Option<Roles>,
    /// Order of the operations.
    pub sort: Option<Sort>,
    /// Order of lists.
    pub list_sort: Option<ListSort>,
    /// What the screen is narrowed to.
    pub filter: Option<String>,
    /// Dots or counts; `Some(None)` = what fits.
    pub density: Option<Option<Density>>,
    /// Columns.
    pub columns: Columns,
}

impl SavedLayout {
    /// What `app` shows.
    pub fn of(app: &App, preset: u8, name: &str) -> SavedLayout {
        SavedLayout {
            name: name.to_owned(),
            preset: Some(preset),
            view: Some(app.view),
            window_ns: Some(app.window_ns),
            scale: Some(app.scale),
            top_ns: Some(app.top_of(Axis::Elapsed)),
            roles: Some(app.roles),
            sort: Some(app.sort),
            list_sort: Some(app.list_sort),
            filter: app.filter.as_ref().map(|filter| filter.text().to_owned()),
            density: Some(app.forced),
            columns: app.columns.clone(),
        }
    }

    /// Makes `app` show it; `start`: what holds where it says nothing. What is frozen stays so.
    pub(super) fn apply(&self, app: &mut App, start: &App) {
        app.view = self.view.unwrap_or(start.view);
        app.window_ns = self.window_ns.unwrap_or(start.window_ns);
        app.scale = self.scale.unwrap_or(start.scale);
        app.show_axis(Axis::Elapsed);
        app.y_max_ns = self.top_ns.unwrap_or(start.y_max_ns);
        app.roles = self.roles.unwrap_or(start.roles);
        app.sort = self.sort.unwrap_or(start.sort);
        app.list_sort = self.list_sort.unwrap_or(start.list_sort);
        app.forced = self.density.unwrap_or(start.forced);
        // It was read once when the layout was.
        app.filter =
            self.filter.as_deref().and_then(|text| Filter::parse(text, app.settings.thresholds()).ok());
        app.columns = Columns {
            operations: self.columns.operations.clone().or_else(|| start.columns.operations.clone()),
            list: self.columns.list.clone().or_else(|| start.columns.list.clone()),
        };
        app.zooms.clear();
        (app.scroll, app.operations, app.list) = (0, start.operations, start.list);
    }

    /// What was typed to save it: a number from 1 to 9, and a name.
    pub(super) fn typed(text: &str) -> Option<(u8, String)> {
        let (number, name) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let preset = number.parse::<u8>().ok().filter(|n| (1..=PRESETS).contains(&usize::from(*n)))?;
        let name = name.trim();
        let name = if name.is_empty() { format!("preset {preset}") } else { name.to_owned() };
        (name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control)).then_some((preset, name))
    }

    fn read(reader: Reader<'_>, item: &Item<'_>) -> Result<SavedLayout, Fault> {
        const KEYS: [&str; 13] = [
            "name",
            "preset",
            "view",
            "window",
            "scale",
            "top",
            "roles",
            "sort",
            "list_sort",
            "filter",
            "density",
            "operations",
            "list",
        ];
        let mut layout = SavedLayout::default();
        for (key, item) in reader.table("[screen.layout]", item)? {
            let bounded = |name, bounds: &std::ops::RangeInclusive<u64>| {
                let ns = reader.span_ns(name, item)?;
                if bounds.contains(&ns) {
                    return Ok(Some(ns));
                }
                let [low, high] =
                    [bounds.start(), bounds.end()].map(|ns| Span(std::time::Duration::from_nanos(*ns)));
                let what = format!("`{name}` is out of bounds");
                Err(reader.fault(item.span(), what, format!("it goes from {low} to {high}")))
            };
            match key.get_ref().as_ref() {
                "name" => layout.name = name(reader, item)?,
                "preset" => layout.preset = Some(preset(reader, item)?),
                "view" => layout.view = Some(reader.word("view", item, &views())?),
                "window" => layout.window_ns = bounded("window", &WINDOWS_NS)?,
                "scale" => layout.scale = Some(reader.word("scale", item, &SCALES)?),
                "top" => layout.top_ns = bounded("top", &TOPS_NS)?,
                "roles" => layout.roles = Some(reader.word("roles", item, &ROLES)?),
                "sort" => layout.sort = Some(reader.word("sort", item, &sorts())?),
                "list_sort" => layout.list_sort = Some(reader.word("list_sort", item, &list_sorts())?),
                "filter" => layout.filter = filter(reader, item)?,
                "density" => layout.density = Some(reader.word("density", item, &DENSITIES)?),
                "operations" => {
                    layout.columns.operations =
                        Some(reader.words("operations", item, &OperationColumn::ALL)?);
                }
                "list" => layout.columns.list = Some(reader.words("list", item, &ListColumn::ALL)?),
                other => return Err(reader.unknown(key.span(), "key of a layout", other, &KEYS)),
            }
        }
        if layout.name.is_empty() {
            let what = "a layout has no name".to_owned();
            return Err(reader.fault(item.span(), what, "add a line: name = \"errors\""));
        }
        Ok(layout)
    }

    fn write(&self, text: &mut String) {
        let mut line = |key: &str, value: &str| text.push_str(&format!("{key} = {value}\n"));
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        fn word<T: PartialEq>(value: &T, words: &[(T, &str)]) -> Option<String> {
            let word = words.iter().find(|(meaning, _)| meaning == value);
            word.map(|(_, word)| format!("\"{}\"", word.to_ascii_lowercase()))
        }
        fn words<T: PartialEq>(values: &[T], words: &[(T, &str)]) -> String {
            format!(
                "[{}]",
                values.iter().filter_map(|value| word(value, words)).collect::<Vec<_>>().join(", ")
            )
        }
        let span = |ns: u64| format!("\"{}\"", Span(std::time::Duration::from_nanos(ns)));
        line("name", &quoted(&self.name));
        let values = [
            ("preset", self.preset.map(|preset| preset.to_string())),
            ("view", self.view.and_then(|view| word(&view, &views()))),
            ("window", self.window_ns.map(span)),
            ("scale", self.scale.and_then(|scale| word(&scale, &SCALES))),
            ("top", self.top_ns.map(span)),
            ("roles", self.roles.and_then(|roles| word(&roles, &ROLES))),
            ("sort", self.sort.and_then(|sort| word(&sort, &sorts()))),
            ("list_sort", self.list_sort.and_then(|sort| word(&sort, &list_sorts()))),
            ("filter", self.filter.as_deref().map(quoted)),
            ("density", self.density.and_then(|density| word(&density, &DENSITIES))),
            ("operations", self.columns.operations.as_ref().map(|shown| words(shown, &OperationColumn::ALL))),
            ("list", self.columns.list.as_ref().map(|shown| words(shown, &ListColumn::ALL))),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                line(key, &value);
            }
        }
    }
}

fn name(reader: Reader<'_>, item: &Item<'_>) -> Result<String, Fault> {
    let name = reader.text("name", item, "name = \"errors\"")?;
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        let what = format!("'{}' is no name of a layout", screen_text(name));
        return Err(reader.fault(
            item.span(),
            what,
            format!("1 to {MAX_NAME} characters, none of them control characters"),
        ));
    }
    Ok(name.to_owned())
}

fn preset(reader: Reader<'_>, item: &Item<'_>) -> Result<u8, Fault> {
    const WAY_OUT: &str = "write a number from 1 to 9: Alt and that digit show it";
    let text = reader.number_or_text("preset", item, WAY_OUT)?;
    let preset = text.parse::<u8>().ok().filter(|n| (1..=PRESETS).contains(&usize::from(*n)));
    preset.ok_or_else(|| {
        reader.fault(item.span(), format!("'{}' is no number of a preset", screen_text(&text)), WAY_OUT)
    })
}

/// A filter that can be read; empty = none.
fn filter(reader: Reader<'_>, item: &Item<'_>) -> Result<Option<String>, Fault> {
    let text = reader.text("filter", item, "filter = \"duration > 1s and err\"")?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    // Whatever the settings make of the words: the same texts can be read.
    Filter::parse(text, Thresholds::default()).map_err(|error| {
        let what = format!("`filter`, at its column {}: {}", error.column, error.message);
        reader.fault(item.span(), what, "such as \"duration > 100ms and err\", the language of --filter")
    })?;
    Ok(Some(text.to_owned()))
}

/// The layouts of a list of tables.
pub(super) fn read(reader: Reader<'_>, item: &Item<'_>) -> Result<Vec<SavedLayout>, Fault> {
    let mut layouts: Vec<SavedLayout> = Vec::new();
    for item in reader.list("layout", item, "[[screen.layout]] with a name")? {
        let layout = SavedLayout::read(reader, item)?;
        let what = if layouts.len() == MAX_LAYOUTS {
            format!("there are more than {MAX_LAYOUTS} layouts")
        } else if layouts.iter().any(|other| other.name == layout.name) {
            format!("two layouts are called '{}'", screen_text(&layout.name))
        } else if let Some(preset) =
            layout.preset.filter(|n| layouts.iter().any(|other| other.preset == Some(*n)))
        {
            format!("two layouts are preset {preset}")
        } else {
            layouts.push(layout);
            continue;
        };
        return Err(reader.fault(item.span(), what, "change or delete one of them"));
    }
    Ok(layouts)
}

/// The layouts that were saved in `folder`; none without a file.
pub(super) fn load(folder: &Path) -> Result<Vec<SavedLayout>, Fault> {
    let path = folder.join(LAYOUTS_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Fault {
                place: None,
                what: format!("cannot read {}: {error}", path.display()),
                way_out: "make it readable, or delete it: txray writes it anew".to_owned(),
            });
        }
    };
    let file = SettingsFile { path, text };
    let reader = Reader::new(&file);
    let mut layouts = Vec::new();
    let only = |reader: Reader<'_>, table: &DeTable<'_>, known: &str| {
        let other = table.keys().find(|key| key.get_ref() != known);
        other.map_or(Ok(()), |key| {
            Err(reader.unknown(key.span(), "key of this file", key.get_ref(), &[known]))
        })
    };
    let root = reader.root()?;
    only(reader, &root, "screen")?;
    for screen in root.values() {
        let screen = reader.table("screen", screen)?;
        only(reader, screen, "layout")?;
        for item in screen.values() {
            layouts = read(reader, item)?;
        }
    }
    Ok(layouts)
}

/// Puts saved layouts over written ones: a name or a number that both have is the saved one's.
pub(super) fn merge(written: Vec<SavedLayout>, saved: Vec<SavedLayout>) -> Vec<SavedLayout> {
    let mut all: Vec<SavedLayout> =
        written.into_iter().filter(|layout| saved.iter().all(|other| other.name != layout.name)).collect();
    for layout in &mut all {
        layout.preset = layout.preset.filter(|n| saved.iter().all(|other| other.preset != Some(*n)));
    }
    all.extend(saved);
    all
}

/// Keeps a layout in `folder`, in place of the one with its name or its number. Returns the file.
pub fn save(folder: &Path, layout: &SavedLayout) -> Result<PathBuf, Fault> {
    let mut layouts = load(folder)?;
    let replaced = |other: &SavedLayout| {
        other.name == layout.name || (other.preset.is_some() && other.preset == layout.preset)
    };
    layouts.retain(|other| !replaced(other));
    if layouts.len() == MAX_LAYOUTS {
        return Err(Fault {
            place: None,
            what: format!("{} has {MAX_LAYOUTS} layouts already", folder.join(LAYOUTS_FILE).display()),
            way_out: "delete one of them there".to_owned(),
        });
    }
    layouts.push(layout.clone());
    layouts.sort_by_key(|layout| layout.preset);
    let mut text = "# Layouts that txray saved. It writes this file anew each time: what you write yourself belongs into the settings file.\n"
        .to_owned();
    for layout in &layouts {
        text.push_str("\n[[screen.layout]]\n");
        layout.write(&mut text);
    }
    write(folder, &text).map_err(|error| Fault {
        place: None,
        what: format!("cannot write {}: {error}", folder.join(LAYOUTS_FILE).display()),
        way_out: "choose another folder: --config FILE keeps layouts beside FILE".to_owned(),
    })?;
    Ok(folder.join(LAYOUTS_FILE))
}

/// Writes the file in one piece, for whoever owns the folder: under sudo that is not root.
fn write(folder: &Path, text: &str) -> io::Result<()> {
    make(folder)?;
    let folder = folder.canonicalize()?;
    let new = folder.join(format!("{LAYOUTS_FILE}.{}.new", std::process::id()));
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        // A file or a link that is there already is not touched.
        let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
        let (owner, own) = (fs::metadata(&folder)?, file.metadata()?);
        if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) && is_root() {
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, folder.join(LAYOUTS_FILE))
    })();
    if written.is_err() {
        // What is left of it serves nobody, and if it cannot be removed there is nothing to add to the error.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Makes a folder and what is missing above it, each for the owner of the one above.
fn make(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make(above)?;
    }
    fs::create_dir(folder)?;
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (owner, own) = (fs::metadata(above)?, fs::symlink_metadata(folder)?);
    if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) && is_root() {
        std::os::unix::fs::lchown(folder, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

fn is_root() -> bool {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

//! The section `[screen]` of the settings file: colours, thresholds, columns, keys, layouts.

use std::path::PathBuf;

use toml::de::DeValue;

use super::{
    columns::{Columns, ListColumn, OperationColumn},
    keymap::{Action, Key},
    keys::Keymap,
    layouts::{self, SavedLayout},
    palette::{Paint, Palette, Tone},
    table::{Fault, Item, Reader},
};
use crate::{config, pipeline::AgeSteps, report::filter::Thresholds, text::screen_text};

const STEPS: [(AgeSteps, &str); 3] =
    [(AgeSteps::SCOUTER, "scouter"), (AgeSteps::PINPOINT, "pinpoint"), (AgeSteps::JENNIFER, "jennifer")];

/// How the screen looks and obeys. The default is what it does without settings.
#[derive(Clone, Debug, Default)]
pub struct ScreenSettings {
    /// Colours.
    pub palette: Palette,
    /// Classes of age of requests in flight.
    pub age_steps: AgeSteps,
    /// From where on a transaction is slow, ns: a line in the XLog, and what `slow` means in filters.
    pub slow_ns: Option<u64>,
    /// Columns.
    pub columns: Columns,
    /// Keys.
    pub keymap: Keymap,
    /// Layouts, written and saved.
    pub layouts: Vec<SavedLayout>,
    /// The layout at the start.
    pub start: Option<SavedLayout>,
    /// Where layouts are saved.
    pub folder: Option<PathBuf>,
}

impl ScreenSettings {
    /// Reads the section, and the layouts that were saved.
    pub fn read(screen: &config::Screen) -> Result<ScreenSettings, Fault> {
        let mut settings = ScreenSettings { folder: screen.folder.clone(), ..ScreenSettings::default() };
        if let Some(file) = &screen.file {
            let reader = Reader::new(file);
            if let Some(section) = reader.root()?.get("screen") {
                settings.section(reader, section)?;
            }
        }
        if let Some(folder) = &screen.folder {
            settings.layouts = layouts::merge(settings.layouts, layouts::load(folder)?);
        }
        if let Some(name) = &screen.layout {
            let start = settings.layouts.iter().find(|layout| layout.name == *name).cloned();
            settings.start = Some(start.ok_or_else(|| {
                let names: Vec<_> = settings.layouts.iter().map(|layout| screen_text(&layout.name)).collect();
                Fault {
                    place: None,
                    what: format!("there is no layout '{}'", screen_text(name)),
                    way_out: match names.as_slice() {
                        [] => "there are none yet: S on the screen keeps one, [[screen.layout]] in the settings file too".to_owned(),
                        names => format!("known are: {}", names.join(", ")),
                    },
                }
            })?);
        }
        Ok(settings)
    }

    /// What the words of a filter mean.
    pub fn thresholds(&self) -> Thresholds {
        self.slow_ns.map_or_else(Thresholds::default, |slow_ns| Thresholds { slow_ns })
    }

    /// The layout of a preset.
    pub fn preset(&self, number: u8) -> Option<&SavedLayout> {
        self.layouts.iter().find(|layout| layout.preset == Some(number))
    }

    /// The lowest number without a layout; 1 where all have one.
    pub(super) fn free_preset(&self) -> u8 {
        (1..=9).find(|n| self.preset(*n).is_none()).unwrap_or(1)
    }

    /// A layout was saved.
    pub(super) fn keep(&mut self, layout: SavedLayout) {
        self.layouts = layouts::merge(std::mem::take(&mut self.layouts), vec![layout]);
    }

    fn section(&mut self, reader: Reader<'_>, item: &Item<'_>) -> Result<(), Fault> {
        const KEYS: [&str; 8] =
            ["palette", "colours", "active_steps", "slow", "operations", "list", "keys", "layout"];
        let section = reader.table("screen", item)?;
        // First: the others change single colours of it.
        if let Some(item) = section.get("palette") {
            let named = Palette::NAMES.map(|name| (Palette::named(name).unwrap_or_default(), name));
            self.palette = reader.word("palette", item, &named)?;
        }
        for (key, item) in section {
            match key.get_ref().as_ref() {
                "palette" => {}
                "colours" => self.colours(reader, item)?,
                "active_steps" => self.age_steps = steps(reader, item)?,
                "slow" => {
                    let off = item.get_ref().as_str() == Some("off");
                    self.slow_ns = if off { None } else { Some(reader.span_ns("slow", item)?) };
                }
                "operations" => {
                    self.columns.operations =
                        Some(reader.words("operations", item, &OperationColumn::ALL)?);
                }
                "list" => self.columns.list = Some(reader.words("list", item, &ListColumn::ALL)?),
                "keys" => self.keymap = keys(reader, item)?,
                "layout" => self.layouts = layouts::read(reader, item)?,
                other => return Err(reader.unknown(key.span(), "key of [screen]", other, &KEYS)),
            }
        }
        Ok(())
    }

    fn colours(&mut self, reader: Reader<'_>, item: &Item<'_>) -> Result<(), Fault> {
        for (key, item) in reader.table("screen.colours", item)? {
            let name = key.get_ref().as_ref();
            let Some((tone, _)) = Tone::ALL.iter().find(|(_, known)| *known == name) else {
                let known = Tone::ALL.map(|(_, known)| known);
                return Err(reader.unknown(key.span(), "colour to set", name, &known));
            };
            let text = reader.number_or_text(name, item, Paint::WANTED)?;
            let paint = Paint::parse(&text).ok_or_else(|| {
                let what = format!("`{name}`: '{}' is no colour", screen_text(&text));
                reader.fault(item.span(), what, Paint::WANTED)
            })?;
            self.palette.set(*tone, paint);
        }
        Ok(())
    }
}

/// The name of a preset, or one to three ages.
fn steps(reader: Reader<'_>, item: &Item<'_>) -> Result<AgeSteps, Fault> {
    if let DeValue::String(_) = item.get_ref() {
        return reader.word("active_steps", item, &STEPS);
    }
    let ages =
        reader.list("active_steps", item, "[\"3s\", \"8s\"], or \"scouter\", \"pinpoint\", \"jennifer\"")?;
    let ages =
        ages.into_iter().map(|age| reader.span_ns("active_steps", age)).collect::<Result<Vec<_>, _>>()?;
    AgeSteps::new(&ages).ok_or_else(|| {
        let what = "`active_steps` are not one to three ages, each above the one before".to_owned();
        reader.fault(item.span(), what, "for example active_steps = [\"1s\", \"3s\", \"8s\"]")
    })
}

/// Other keys for some actions.
fn keys(reader: Reader<'_>, item: &Item<'_>) -> Result<Keymap, Fault> {
    let actions = Action::all();
    let mut changes = Vec::new();
    let mut places = Vec::new();
    for (name, item) in reader.table("screen.keys", item)? {
        let text = name.get_ref().as_ref();
        let Some((action, _)) = actions.iter().find(|(_, known)| known == text) else {
            let known: Vec<&str> = actions.iter().map(|(_, known)| known.as_str()).collect();
            return Err(reader.unknown(name.span(), "action", text, &known));
        };
        let mut keys = Vec::new();
        for item in reader.list(text, item, &format!("{text} = [\"x\", \"PgUp\"]"))? {
            const WAY_OUT: &str = "a character, space, Enter, Esc, Tab, Shift-Tab, Backspace, Up, Down, Left, Right, PgUp, PgDn, \
                                   Home, End, or Alt- and a character";
            let key = reader.text(text, item, WAY_OUT)?;
            keys.push(Key::parse(key).ok_or_else(|| {
                let what = format!("`{text}`: there is no key '{}'", screen_text(key));
                reader.fault(item.span(), what, WAY_OUT)
            })?);
        }
        changes.push((*action, keys));
        places.push((*action, name.span()));
    }
    Keymap::build(changes).map_err(|fault| {
        let place = places.iter().find(|(action, _)| fault.actions().contains(action));
        let span = place.map_or_else(|| item.span(), |(_, span)| span.clone());
        reader.fault(span, fault.to_string(), fault.way_out())
    })
}

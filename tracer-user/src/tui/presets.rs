//! Layouts on the screen: the one at the start, those of presets, and keeping what is shown as one. Pure, as all of [`App`].

use std::{path::PathBuf, sync::Arc};

use super::{
    app::{App, Command, Prompt, Purpose},
    keymap::Action,
    layouts::SavedLayout,
    settings::ScreenSettings,
    table::Fault,
};

impl App {
    /// The same as the settings want it, with the layout that they start with.
    pub fn with_settings(settings: Arc<ScreenSettings>, window_ns: Option<u64>) -> App {
        let columns = settings.columns.clone();
        let mut app = App { columns, settings: settings.clone(), ..App::with_window(window_ns) };
        if let Some(layout) = &settings.start {
            let start = app.clone();
            layout.apply(&mut app, &start);
        }
        app
    }

    /// Shows the layout of a preset.
    pub(super) fn show_preset(&mut self, number: u8) {
        let settings = self.settings.clone();
        match settings.preset(number) {
            Some(layout) => {
                let start = App { columns: settings.columns.clone(), ..App::default() };
                layout.apply(self, &start);
            }
            None => {
                let key = settings.keymap.key_name(Action::SaveLayout);
                self.complaint = Some(format!("preset {number} is free: {key} keeps what is shown"));
            }
        }
    }

    /// Asks for number and name of a layout to keep.
    pub(super) fn type_layout(&mut self) {
        let text = format!("{} ", self.settings.free_preset());
        self.prompt = Some(Prompt { purpose: Purpose::Layout, text, fault: None });
    }

    /// They were typed.
    pub(super) fn keep_typed(&mut self) -> Command {
        let typed = self.prompt.as_ref().and_then(|prompt| SavedLayout::typed(&prompt.text));
        let Some((preset, name)) = typed else {
            // It stays, to be mended.
            self.complaint = Some("a number from 1 to 9, then a name of up to 32 characters".to_owned());
            return Command::Draw;
        };
        self.prompt = None;
        self.to_save = Some(SavedLayout::of(self, preset, &name));
        Command::Save
    }

    /// A layout was saved in a file, or could not be.
    pub fn saved(&mut self, layout: SavedLayout, saved: Result<PathBuf, Fault>) {
        self.complaint = Some(match saved {
            Ok(file) => {
                let text = format!("kept as preset {} in {}", layout.preset.unwrap_or(0), file.display());
                Arc::make_mut(&mut self.settings).keep(layout);
                text
            }
            Err(fault) => fault.to_string(),
        });
    }
}

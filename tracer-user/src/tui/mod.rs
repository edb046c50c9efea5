//! The live screen. State (`app`, `model`, `chart`, `keymap`) knows no terminal; only `draw`, `theme` and `terminal`
//! do.

mod app;
mod chart;
mod columns;
mod command;
mod contrast;
mod draw;
mod errand;
mod export;
mod feed;
mod file;
mod graph;
mod keymap;
mod keys;
mod layouts;
mod link;
mod model;
mod palette;
mod playback;
mod presets;
mod settings;
mod table;
mod terminal;
mod theme;
mod trace;
mod view;
mod walk;

use crate::report::edges;

pub use app::{App, Command, Cursor, Narrowing, Prompt, Purpose, Rows, Seen, Zoom};
pub use chart::{Cell, Chart, ChartArea, Density, Geometry, Rectangle, Scale};
pub use columns::{Columns, ListColumn, OperationColumn};
pub use contrast::{Contrast, Totals};
pub use draw::{Layout, draw, layout};
pub use edges::{Edge, Peer};
pub use errand::{Errand, Here, run as run_errand};
pub use export::{Table, Value};
pub use feed::{Feed, Heading, SharedStatus, Status, StatusSink};
pub use graph::{Graph, LeftOut, Link, Node, Owner, Path, Picture, Placed, Text, picture};
pub use keymap::{Action, BINDINGS, Binding, Key};
pub use keys::{Bound, KeyFault, Keymap};
pub use layouts::{LAYOUTS_FILE, SavedLayout, save};
pub use link::{Template, clipboard};
pub use model::{Listed, Model, Row};
pub use palette::{Paint, Palette, Tone};
pub use playback::{OpenPast, Order, Pace, Playback, Played, Sought};
pub use settings::ScreenSettings;
pub use table::Fault;
pub use terminal::{Left, Shows, columns, restore, run, symbols, usable};
pub use theme::{Colours, Symbols, Theme};
pub use view::{ListSort, Place, Roles, Sort, View};

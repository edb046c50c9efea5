//! The live screen. State (`app`, `model`, `chart`, `keymap`) knows no terminal; only `draw`, `theme` and `terminal`
//! do.

mod app;
mod chart;
mod command;
mod contrast;
mod draw;
mod edges;
mod feed;
mod keymap;
mod model;
mod playback;
mod terminal;
mod theme;
mod view;
mod walk;

pub use app::{App, Command, Cursor, Prompt, Purpose, Rows, Seen, Zoom};
pub use chart::{Cell, Chart, ChartArea, Density, Geometry, Rectangle, Scale};
pub use contrast::{Contrast, Totals};
pub use draw::{Layout, draw, layout};
pub use edges::{Edge, Peer};
pub use feed::{Feed, Heading, SharedStatus, Status, StatusSink};
pub use keymap::{Action, BINDINGS, Binding, Key};
pub use model::{Listed, Model, Row};
pub use playback::{OpenPast, Order, Pace, Playback, Played, Sought};
pub use terminal::{Left, Shows, restore, run, usable};
pub use theme::{Colours, Symbols, Theme};
pub use view::{ListSort, Place, Roles, Sort, View};

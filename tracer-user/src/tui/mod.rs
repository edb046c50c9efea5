//! The live screen. State (`app`, `model`, `chart`, `keymap`) knows no terminal; only `draw`, `theme` and `terminal`
//! do.

mod app;
mod chart;
mod contrast;
mod draw;
mod edges;
mod feed;
mod keymap;
mod model;
mod terminal;
mod theme;
mod view;

pub use app::{App, Command, Cursor, Prompt, Purpose, Rows, Seen, Zoom};
pub use chart::{Cell, Chart, ChartArea, Density, Geometry, Rectangle, Scale};
pub use contrast::{Contrast, Totals};
pub use draw::{Layout, draw, layout};
pub use edges::{Edge, Peer};
pub use feed::{Feed, Heading, SharedStatus, Status, StatusSink};
pub use keymap::{Action, BINDINGS, Binding, Key};
pub use model::{Listed, Model, Row};
pub use terminal::{Left, restore, run, usable};
pub use theme::{Colours, Symbols, Theme};
pub use view::{ListSort, Place, Roles, Sort, View};

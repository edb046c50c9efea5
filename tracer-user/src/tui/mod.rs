//! The live screen. State (`app`, `model`, `chart`) knows no terminal; only `draw`, `theme` and `terminal`
//! do.

mod app;
mod chart;
mod draw;
mod feed;
mod model;
mod terminal;
mod theme;

pub use app::{App, Command, Focus, Key, Roles, Sort};
pub use chart::{Cell, Chart, ChartArea, Density, Scale};
pub use draw::{chart_size, draw};
pub use feed::{Feed, Heading, SharedStatus, Status, StatusSink};
pub use model::{Model, Row};
pub use terminal::{Left, restore, run, usable};
pub use theme::{Colours, Symbols, Theme};

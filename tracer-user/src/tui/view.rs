//! The words of the screen: its views, the places above them, whose dots, which order.

use crate::event::Role;

/// A view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum View {
    /// XLog, in flight, operations on one screen.
    #[default]
    Overview,
    /// The XLog alone.
    Xlog,
    /// Requests in flight.
    Active,
    /// All operations.
    Operations,
    /// Services, and who calls whom.
    Services,
    /// What databases and caches are asked.
    Statements,
    /// What requests were met doing.
    Stacks,
    /// Connections.
    Connections,
    /// Patterns of the XLog.
    Patterns,
    /// txray itself.
    Health,
}

impl View {
    /// All, in the order of their digits.
    pub const ALL: [View; 10] = [
        View::Overview,
        View::Xlog,
        View::Active,
        View::Operations,
        View::Services,
        View::Statements,
        View::Stacks,
        View::Connections,
        View::Patterns,
        View::Health,
    ];

    /// The key that shows it.
    pub fn digit(self) -> u8 {
        match self {
            View::Overview => b'1',
            View::Xlog => b'2',
            View::Active => b'3',
            View::Operations => b'4',
            View::Services => b'5',
            View::Statements => b'6',
            View::Stacks => b'7',
            View::Connections => b'8',
            View::Patterns => b'9',
            View::Health => b'0',
        }
    }

    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            View::Overview => "Overview",
            View::Xlog => "XLog",
            View::Active => "Active",
            View::Operations => "Operations",
            View::Services => "Services",
            View::Statements => "Statements",
            View::Stacks => "Stacks",
            View::Connections => "Connections",
            View::Health => "Health",
            View::Patterns => "Patterns",
        }
    }
}

/// Where a key is pressed: in a view, or in what was opened above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A view.
    View(View),
    /// A rectangle is being selected in the XLog.
    Select,
    /// The list of what was selected.
    List,
    /// What was selected, against the others.
    Contrast,
    /// One transaction.
    Detail,
    /// Counter graphs over a range.
    Range,
    /// The keys.
    Help,
}

/// Whose dots the XLog shows. A local call has one of each: both together show it twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// Requests served (and those of unknown role).
    #[default]
    Servers,
    /// Requests made.
    Clients,
    /// All.
    Both,
}

impl Roles {
    /// Whether dots of `role` are shown.
    pub fn shows(self, role: Role) -> bool {
        match self {
            Roles::Servers => role != Role::Client,
            Roles::Clients => role == Role::Client,
            Roles::Both => true,
        }
    }
}

/// Order of the operations table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Most transactions first.
    #[default]
    Count,
    /// Most errors first.
    Errors,
    /// Longest p99 first.
    P99,
    /// Longest first.
    Max,
    /// By service and name.
    Name,
}

impl Sort {
    /// Heading of the column it sorts by.
    pub fn column(self) -> &'static str {
        match self {
            Sort::Count => "count",
            Sort::Errors => "errors",
            Sort::P99 => "p99",
            Sort::Max => "max",
            Sort::Name => "operation",
        }
    }

    /// The order that comes next.
    pub fn next(self) -> Sort {
        match self {
            Sort::Count => Sort::Errors,
            Sort::Errors => Sort::P99,
            Sort::P99 => Sort::Max,
            Sort::Max => Sort::Name,
            Sort::Name => Sort::Count,
        }
    }
}

/// Order of a list of transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListSort {
    /// Longest first.
    #[default]
    Elapsed,
    /// Newest first.
    End,
    /// Errors first, each newest first.
    Errors,
    /// By service and operation, each longest first.
    Operation,
}

impl ListSort {
    /// Heading of the column it sorts by.
    pub fn column(self) -> &'static str {
        match self {
            ListSort::Elapsed => "elapsed",
            ListSort::End => "end",
            ListSort::Errors => "status",
            ListSort::Operation => "operation",
        }
    }

    /// The order that comes next.
    pub fn next(self) -> ListSort {
        match self {
            ListSort::Elapsed => ListSort::End,
            ListSort::End => ListSort::Errors,
            ListSort::Errors => ListSort::Operation,
            ListSort::Operation => ListSort::Elapsed,
        }
    }
}

/// Order of the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnSort {
    /// Used last first, those that ended behind.
    #[default]
    Idle,
    /// Most requests first.
    Requests,
    /// Most errors first.
    Errors,
    /// Most in flight first.
    InFlight,
    /// Most bytes, both ways, first.
    Bytes,
    /// Oldest first.
    Age,
}

impl ConnSort {
    /// Heading of the column it sorts by.
    pub fn column(self) -> &'static str {
        match self {
            ConnSort::Idle => "idle",
            ConnSort::Requests => "done",
            ConnSort::Errors => "errors",
            ConnSort::InFlight => "now",
            ConnSort::Bytes => "out",
            ConnSort::Age => "age",
        }
    }

    /// The order that comes next.
    pub fn next(self) -> ConnSort {
        match self {
            ConnSort::Idle => ConnSort::Requests,
            ConnSort::Requests => ConnSort::Errors,
            ConnSort::Errors => ConnSort::InFlight,
            ConnSort::InFlight => ConnSort::Bytes,
            ConnSort::Bytes => ConnSort::Age,
            ConnSort::Age => ConnSort::Idle,
        }
    }
}

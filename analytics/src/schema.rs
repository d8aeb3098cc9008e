//! The column list: every table of the log store, its columns in order, their types and meanings.
//!
//! The list is written once, as the fields of the row types in `record.rs`; the `row!` macro turns
//! each row type into a struct and a [`Table`]. The DDL in `migrations/`, the inserts of both stores
//! and the dashboards are tested against this list. A column is only ever added, at the end, with a
//! new migration; a spool written before the addition still reads (the new field gets its default).

use std::borrow::Cow;

/// How a column is kept. SQLite knows fewer types, so each kind names both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Free text, mostly different from row to row.
    Text,
    /// Text of few different values (provider, model, error code).
    Word,
    /// Text that may be absent.
    MaybeText,
    /// Microseconds since 1970-01-01 UTC.
    Time,
    Flag,
    Small,
    Medium,
    Number,
    /// A number that may be unknown; unknown is not zero.
    MaybeNumber,
    MaybeReal,
    /// Bytes as they were sent, not necessarily UTF-8.
    Bytes,
}

impl Kind {
    /// The type in ClickHouse, without codec.
    pub fn clickhouse(self) -> &'static str {
        match self {
            Kind::Text | Kind::Bytes => "String",
            Kind::Word => "LowCardinality(String)",
            Kind::MaybeText => "Nullable(String)",
            Kind::Time => "DateTime64(6, 'UTC')",
            Kind::Flag => "Bool",
            Kind::Small => "UInt16",
            Kind::Medium => "UInt32",
            Kind::Number => "Int64",
            Kind::MaybeNumber => "Nullable(Int64)",
            Kind::MaybeReal => "Nullable(Float64)",
        }
    }

    /// The type in SQLite; times are integers (microseconds), flags 0 or 1.
    pub fn sqlite(self) -> &'static str {
        match self {
            Kind::Text | Kind::Word | Kind::MaybeText => "TEXT",
            Kind::Time
            | Kind::Flag
            | Kind::Small
            | Kind::Medium
            | Kind::Number
            | Kind::MaybeNumber => "INTEGER",
            Kind::MaybeReal => "REAL",
            Kind::Bytes => "BLOB",
        }
    }

    pub fn is_nullable(self) -> bool {
        matches!(self, Kind::MaybeText | Kind::MaybeNumber | Kind::MaybeReal)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub meaning: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [Column],
}

impl Table {
    /// The column names in order, separated by commas.
    pub fn column_names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
        names.join(", ")
    }
}

/// Every table that holds records, in the order in which a block is inserted.
pub fn tables() -> [&'static Table; 3] {
    use crate::record::{AttemptRow, RequestRow};
    [&AttemptRow::TABLE, &BODIES, &RequestRow::TABLE]
}

/// Request and response bodies, apart from the rows so that they may be kept for a shorter time.
pub const BODIES: Table = Table {
    name: "bodies",
    columns: &[
        Column {
            name: "id",
            kind: Kind::Text,
            meaning: "the attempt whose bodies these are",
        },
        Column {
            name: "account",
            kind: Kind::Word,
            meaning: "account of the attempt",
        },
        Column {
            name: "gateway",
            kind: Kind::Word,
            meaning: "gateway of the attempt",
        },
        Column {
            name: "created_at",
            kind: Kind::Time,
            meaning: "when the attempt began",
        },
        Column {
            name: "request",
            kind: Kind::Bytes,
            meaning: "body sent upstream",
        },
        Column {
            name: "response",
            kind: Kind::Bytes,
            meaning: "body received from upstream",
        },
        Column {
            name: "request_complete",
            kind: Kind::Flag,
            meaning: "false when the request body was cut to fit a bound",
        },
        Column {
            name: "response_complete",
            kind: Kind::Flag,
            meaning: "false when the response body was cut to fit a bound or never ended",
        },
    ],
};

/// One value of a row, as far as a store has to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(Cow<'a, str>),
}

/// A Rust type that a column can hold.
pub(crate) trait Value: Sized {
    fn to_cell(&self) -> Cell<'_>;
    /// `None` when the cell holds something this type cannot: the store was written by another hand.
    fn from_cell(cell: Cell<'_>) -> Option<Self>;
}

impl Value for String {
    fn to_cell(&self) -> Cell<'_> {
        Cell::Text(Cow::Borrowed(self))
    }
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.into_owned()),
            _ => None,
        }
    }
}

impl Value for f64 {
    fn to_cell(&self) -> Cell<'_> {
        Cell::Real(*self)
    }
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Real(value) => Some(value),
            Cell::Integer(value) => Some(value as f64),
            _ => None,
        }
    }
}

impl Value for bool {
    fn to_cell(&self) -> Cell<'_> {
        Cell::Integer(i64::from(*self))
    }
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Integer(value) => Some(value != 0),
            _ => None,
        }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn to_cell(&self) -> Cell<'_> {
                Cell::Integer(i64::from(*self))
            }
            fn from_cell(cell: Cell<'_>) -> Option<Self> {
                match cell {
                    Cell::Integer(value) => value.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}
integers!(i64, u32, u16);

impl<T: Value> Value for Option<T> {
    fn to_cell(&self) -> Cell<'_> {
        self.as_ref().map_or(Cell::Null, Value::to_cell)
    }
    fn from_cell(cell: Cell<'_>) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            present => T::from_cell(present).map(Some),
        }
    }
}

/// A row type, written as `field: type = Kind, "meaning";`, with `(column)` after the field where
/// the column's name differs. `beside` fields are part of the struct but not of the table.
macro_rules! row {
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $column:literal) => { $column };
    (
        $(#[$attribute:meta])*
        $table:literal => $name:ident {
            $($field:ident $(($column:literal))? : $type:ty = $kind:ident, $meaning:literal;)*
        }
        $(beside { $($(#[$beside_attribute:meta])* $beside:ident : $beside_type:ty;)* })?
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, clickhouse::Row)]
        #[serde(default)]
        pub struct $name {
            $(
                #[doc = $meaning]
                $(#[serde(rename = $column)])?
                pub $field: $type,
            )*
            $($(
                $(#[$beside_attribute])*
                #[serde(skip)]
                pub $beside: $beside_type,
            )*)?
        }

        impl $name {
            pub const TABLE: $crate::schema::Table = $crate::schema::Table {
                name: $table,
                columns: &[$($crate::schema::Column {
                    name: $crate::schema::row!(@name $field $($column)?),
                    kind: $crate::schema::Kind::$kind,
                    meaning: $meaning,
                },)*],
            };

            /// The values in column order.
            pub fn cells(&self) -> Vec<$crate::schema::Cell<'_>> {
                vec![$($crate::schema::Value::to_cell(&self.$field),)*]
            }

            /// A row from values in column order; the name of the first column that does not fit
            /// otherwise.
            pub(crate) fn from_cells<'a>(
                mut cells: impl Iterator<Item = $crate::schema::Cell<'a>>,
            ) -> Result<Self, &'static str> {
                Ok(Self {
                    $($field: cells
                        .next()
                        .and_then($crate::schema::Value::from_cell)
                        .ok_or(stringify!($field))?,)*
                    $($($beside: Default::default(),)*)?
                })
            }
        }
    };
}
pub(crate) use row;

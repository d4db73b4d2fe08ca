//! The figures: wanted, reached, and the peers'.

use std::fmt;

/// Rows in the order of their making.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    limit: Option<f64>,
    reached: f64,
    peers: String,
}

impl Table {
    /// A figure that may not be larger than `limit`.
    pub(crate) fn limit(&mut self, what: &str, limit: f64, reached: f64, peers: impl Into<String>) {
        self.rows.push(Row { what: what.into(), limit: Some(limit), reached, peers: peers.into() });
    }

    /// A figure without a limit.
    pub(crate) fn figure(&mut self, what: &str, reached: f64, peers: impl Into<String>) {
        self.rows.push(Row { what: what.into(), limit: None, reached, peers: peers.into() });
    }

    /// Whether every limit holds.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }
}

impl Row {
    fn holds(&self) -> bool {
        self.limit.is_none_or(|limit| self.reached <= limit)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | wanted | reached | peers |\n|---|---|---|---|")?;
        for row in &self.rows {
            let wanted = row.limit.map_or_else(|| "–".into(), |limit| format!("≤ {limit}"));
            let missed = if row.holds() { "" } else { " **missed**" };
            let digits = if row.reached < 100.0 { 2 } else { 0 };
            writeln!(f, "| {} | {wanted} | {:.digits$}{missed} | {} |", row.what, row.reached, row.peers)?;
        }
        Ok(())
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

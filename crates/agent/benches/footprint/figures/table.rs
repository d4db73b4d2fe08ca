//! The figures: wanted, reached, and the peers'.

use std::{fmt, process::ExitCode};

#[derive(Clone, Copy)]
enum Limit {
    None,
    Most(f64),
    Least(f64),
}

/// Rows in the order of their making.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    limit: Limit,
    reached: f64,
    peers: String,
}

/// A whole benchmark: a failure when a limit is missed.
#[allow(dead_code, reason = "each benchmark uses its part")]
pub(crate) fn run(measure: impl FnOnce(&mut Table)) -> ExitCode {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut table = Table::default();
    measure(&mut table);
    println!("{table}");
    if table.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Table {
    /// A figure that may not be larger than `limit`.
    pub(crate) fn limit(&mut self, what: &str, limit: f64, reached: f64, peers: impl Into<String>) {
        self.push(what, Limit::Most(limit), reached, peers.into());
    }

    /// A figure that may not be smaller than `limit`.
    #[allow(dead_code, reason = "each benchmark uses its part")]
    pub(crate) fn at_least(&mut self, what: &str, limit: f64, reached: f64, peers: impl Into<String>) {
        self.push(what, Limit::Least(limit), reached, peers.into());
    }

    /// A figure without a limit.
    pub(crate) fn figure(&mut self, what: &str, reached: f64, peers: impl Into<String>) {
        self.push(what, Limit::None, reached, peers.into());
    }

    fn push(&mut self, what: &str, limit: Limit, reached: f64, peers: String) {
        self.rows.push(Row { what: what.into(), limit, reached, peers });
    }

    /// Whether every limit holds.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }
}

impl Row {
    fn holds(&self) -> bool {
        match self.limit {
            Limit::None => true,
            Limit::Most(limit) => self.reached <= limit,
            Limit::Least(limit) => self.reached >= limit,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | wanted | reached | peers |\n|---|---|---|---|")?;
        for row in &self.rows {
            let wanted = match row.limit {
                Limit::None => "–".into(),
                Limit::Most(limit) => format!("≤ {limit}"),
                Limit::Least(limit) => format!("≥ {limit}"),
            };
            let missed = if row.holds() { "" } else { " **missed**" };
            let digits = if row.reached < 100.0 { 2 } else { 0 };
            writeln!(f, "| {} | {wanted} | {:.digits$}{missed} | {} |", row.what, row.reached, row.peers)?;
        }
        Ok(())
    }
}

/// The middle one.
#[allow(dead_code, reason = "each benchmark uses its part")]
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

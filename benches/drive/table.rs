//! Lines of the result: what was measured on both sides, what it must reach, and whether it did; as text and as JSON.
//! Never here: measuring.

use serde::Serialize;

use crate::machine::Machine;
use crate::stats::median;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    MegabytesPerSecond,
    Milliseconds,
    Seconds,
    Mebibytes,
    Count,
    /// Of something that the line's text names.
    Times,
}

/// What a line must reach.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Target {
    /// Ours divided by theirs.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// Ours as it stands.
    AtMost(f64),
}

/// What a daemon cost, one value for each sample.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    pub cpu_seconds: Vec<f64>,
    pub peak_rss_mib: Vec<f64>,
}

/// One figure of a row. Samples are one for each repeat, in order; what is shown is their median.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub row: u8,
    pub what: String,
    pub unit: Unit,
    pub ours: Vec<f64>,
    pub theirs: Option<Theirs>,
    pub target: Option<Target>,
    pub cost: Cost,
    /// What a reader of the figure must know.
    pub notes: Vec<String>,
}

/// The other side.
#[derive(Clone, Debug, Serialize)]
pub struct Theirs {
    pub name: String,
    pub samples: Vec<f64>,
    pub cost: Cost,
}

impl Line {
    pub fn new(row: u8, what: impl Into<String>, unit: Unit, ours: &[f64]) -> Self {
        Self {
            row,
            what: what.into(),
            unit,
            ours: ours.to_vec(),
            theirs: None,
            target: None,
            cost: Cost::default(),
            notes: Vec::new(),
        }
    }

    /// A line for what could not be measured.
    pub fn missing(row: u8, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(row, what, Unit::Count, &[]).note(why)
    }

    /// Nothing is added if there are no samples: that side was not there.
    pub fn against(mut self, name: &str, samples: &[f64], cost: &Cost) -> Self {
        if !samples.is_empty() {
            self.theirs = Some(Theirs { name: name.into(), samples: samples.to_vec(), cost: cost.clone() });
        }
        self
    }

    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    pub fn cost(mut self, cost: &Cost) -> Self {
        self.cost = cost.clone();
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Ours divided by theirs, of the medians.
    pub fn ratio(&self) -> Option<f64> {
        let theirs = self.theirs.as_ref()?;
        Some(median(&self.ours) / median(&theirs.samples)).filter(|ratio| ratio.is_finite())
    }

    /// Whether the target was reached; nothing where there is none, or nothing to compare with.
    pub fn is_reached(&self) -> Option<bool> {
        let ours = Some(median(&self.ours)).filter(|value| value.is_finite());
        match self.target? {
            Target::RatioAtLeast(least) => self.ratio().map(|ratio| ratio >= least),
            Target::RatioAtMost(most) => self.ratio().map(|ratio| ratio <= most),
            Target::AtMost(most) => ours.map(|value| value <= most),
        }
    }

    fn cells(&self) -> [String; 9] {
        let theirs = self.theirs.as_ref();
        [
            self.row.to_string(),
            self.what.clone(),
            self.show(&self.ours),
            theirs.map_or(NOTHING.into(), |theirs| format!("{} ({})", self.show(&theirs.samples), theirs.name)),
            self.ratio().map_or(NOTHING.into(), |ratio| format!("{ratio:.2}")),
            self.target.map_or(NOTHING.into(), Target::show),
            self.is_reached().map_or(NOTHING, |is_reached| if is_reached { "yes" } else { "**no**" }).into(),
            plain(&self.cost.cpu_seconds, 2),
            plain(&self.cost.peak_rss_mib, 0),
        ]
    }

    /// What the other side's daemon cost has a line of its own.
    fn cells_of_theirs(&self) -> Option<[String; 9]> {
        let theirs = self.theirs.as_ref().filter(|theirs| !theirs.cost.cpu_seconds.is_empty())?;
        let mut cells = [const { String::new() }; 9];
        cells[1] = format!("↳ {}'s daemon", theirs.name);
        cells[7] = plain(&theirs.cost.cpu_seconds, 2);
        cells[8] = plain(&theirs.cost.peak_rss_mib, 0);
        Some(cells)
    }

    fn show(&self, samples: &[f64]) -> String {
        show(samples, self.unit)
    }
}

/// What was not measured.
const NOTHING: &str = "–";

const HEADS: [&str; 9] =
    ["#", "what", "ours", "theirs", "ratio", "target", "reached", "daemon CPU s", "daemon peak RSS MiB"];

/// The median of some samples with its unit.
pub fn show(samples: &[f64], unit: Unit) -> String {
    let value = median(samples);
    if !value.is_finite() {
        return NOTHING.into();
    }
    match unit {
        Unit::MegabytesPerSecond => format!("{} MB/s", digits(value)),
        Unit::Milliseconds => format!("{} ms", digits(value)),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Mebibytes => format!("{} MiB", digits(value)),
        Unit::Count => digits(value),
        Unit::Times => format!("{value:.2} ×"),
    }
}

/// About three digits that say something.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 1.0 => format!("{value:.3}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn plain(samples: &[f64], decimals: usize) -> String {
    let value = median(samples);
    if value.is_finite() { format!("{value:.decimals$}") } else { NOTHING.into() }
}

impl Target {
    fn show(self) -> String {
        match self {
            Self::RatioAtLeast(least) => format!("≥ {least} × theirs"),
            Self::RatioAtMost(most) => format!("≤ {most} × theirs"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// A Markdown table that can be read as it is, and the notes below it.
pub fn print(lines: &[Line]) {
    let cells = lines.iter().flat_map(|line| [Some(line.cells()), line.cells_of_theirs()]).flatten();
    let rows: Vec<_> = std::iter::once(HEADS.map(str::to_owned)).chain(cells).collect();
    print_cells(&rows.iter().map(<[_; 9]>::as_slice).collect::<Vec<_>>());
    for line in lines {
        for note in &line.notes {
            println!("- {}, {}: {note}", line.row, line.what);
        }
    }
}

/// Columns of one width; the first row is the head.
pub fn print_cells(rows: &[&[String]]) {
    let columns = rows.first().map_or(0, |head| head.len());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("|-{}-|", rules.join("-|-"));
        }
    }
}

/// Everything there is to know, for programs.
pub fn json(lines: &[Line], machine: &Machine, settings: &serde_json::Value) -> serde_json::Value {
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let mut value = serde_json::json!(line);
            value["ours_median"] = number(median(&line.ours));
            value["theirs_median"] = number(line.theirs.as_ref().map_or(f64::NAN, |theirs| median(&theirs.samples)));
            value["ratio"] = number(line.ratio().unwrap_or(f64::NAN));
            value["is_reached"] = serde_json::json!(line.is_reached());
            value
        })
        .collect();
    serde_json::json!({ "machine": machine, "settings": settings, "lines": rows })
}

/// JSON has no NaN.
fn number(value: f64) -> serde_json::Value {
    if value.is_finite() { serde_json::json!(value) } else { serde_json::Value::Null }
}

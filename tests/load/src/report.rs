//! Medians over the rounds, and what they are beside each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::exchange::Mode;

/// What one unit (a request or a chunk) cost in one round.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// On the threads that serve.
    pub path_us: f64,
    /// On the threads that bring rows to the store.
    pub writer_us: f64,
}

impl Measured {
    pub fn brief(&self) -> String {
        match self.writer_us > 0.0 {
            true => format!("{}+{}", short(self.path_us), short(self.writer_us)),
            false => short(self.path_us),
        }
    }
}

#[derive(Default)]
pub struct Report {
    /// By mode (its place in the table) and subject, one a round.
    rounds: BTreeMap<(usize, &'static str), Vec<Measured>>,
    memory: Vec<(&'static str, (u64, u64))>,
}

impl Report {
    pub fn add(&mut self, mode: Mode, subject: &'static str, measured: Measured) {
        let place = Mode::ALL
            .iter()
            .position(|known| *known == mode)
            .expect("all modes are in the list");
        self.rounds
            .entry((place, subject))
            .or_default()
            .push(measured);
    }

    /// Megabytes now and at their highest.
    pub fn memory(&mut self, subject: &'static str, megabytes: (u64, u64)) {
        self.memory.push((subject, megabytes));
    }

    /// Tables in Markdown.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "CPU, microseconds per request or chunk: median over the rounds (lowest to highest).\n\n\
             | mode | nginx | pingora | gateway | gateway, bodies on |\n| --- | --- | --- | --- | --- |\n",
        );
        for (place, mode) in self.modes() {
            let cell = |subject| self.spread(place, subject, |measured| measured.path_us);
            let cells = ["nginx", "pingora", "gateway", "bodies"].map(cell);
            writeln!(text, "| {} | {} |", mode.title(), cells.join(" | ")).expect("a string");
        }
        text.push_str(
            "\nThe gateway beside the two: median of the rounds' own ratios (ratio of the lowest costs), and its writer threads, which are not in the figures above.\n\n\
             | mode | x pingora | x nginx | bodies on, x pingora | writer | writer, bodies on |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for (place, mode) in self.modes() {
            let ratio = |subject, other| self.ratio(place, subject, other);
            let writer = |subject| self.spread(place, subject, |measured| measured.writer_us);
            let cells = [
                ratio("gateway", "pingora"),
                ratio("gateway", "nginx"),
                ratio("bodies", "pingora"),
                writer("gateway"),
                writer("bodies"),
            ];
            writeln!(text, "| {} | {} |", mode.title(), cells.join(" | ")).expect("a string");
        }
        text.push_str("\nResident memory, MB, at the end (highest): ");
        let memory = self
            .memory
            .iter()
            .map(|(subject, (now, most))| format!("{subject} {now} ({most})"));
        text.push_str(&memory.collect::<Vec<_>>().join(", "));
        text.push('\n');
        text
    }

    fn modes(&self) -> impl Iterator<Item = (usize, Mode)> {
        let measured = |place: &usize| self.rounds.keys().any(|(known, _)| known == place);
        (0..Mode::ALL.len())
            .filter(measured)
            .map(|place| (place, Mode::ALL[place]))
    }

    fn spread(&self, place: usize, subject: &'static str, pick: fn(&Measured) -> f64) -> String {
        let Some(rounds) = self.rounds.get(&(place, subject)) else {
            return "-".to_owned();
        };
        let sorted = sorted(rounds.iter().map(pick).collect());
        let (low, high) = (sorted[0], sorted[sorted.len() - 1]);
        format!(
            "{} ({}-{})",
            short(median(&sorted)),
            short(low),
            short(high)
        )
    }

    fn ratio(&self, place: usize, subject: &'static str, other: &'static str) -> String {
        let (Some(ours), Some(theirs)) = (
            self.rounds.get(&(place, subject)),
            self.rounds.get(&(place, other)),
        ) else {
            return "-".to_owned();
        };
        let pairs = ours.iter().zip(theirs);
        let ratios = sorted(
            pairs
                .map(|(ours, theirs)| ours.path_us / theirs.path_us)
                .collect(),
        );
        let lowest = |rounds: &[Measured]| {
            let costs = rounds.iter().map(|measured| measured.path_us);
            costs.fold(f64::INFINITY, f64::min)
        };
        format!(
            "{:.2} ({:.2})",
            median(&ratios),
            lowest(ours) / lowest(theirs)
        )
    }
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// Three digits that mean something.
fn short(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2}"),
        us if us < 100.0 => format!("{us:.1}"),
        us => format!("{us:.0}"),
    }
}

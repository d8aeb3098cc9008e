//! The gateway's configuration file, built by a test: only what the test is about stands in it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// A configuration in the making. Listeners and the data directory are added by
/// [`TestGateway`](crate::TestGateway).
#[derive(Clone, Debug, Default)]
pub struct Config {
    tables: BTreeMap<String, Vec<String>>,
    gateways: Vec<String>,
}

impl Config {
    pub fn new() -> Config {
        Config::default()
    }

    /// `line` (`key = value`) in `table`.
    pub fn set(mut self, table: &str, line: &str) -> Config {
        self.tables
            .entry(table.to_owned())
            .or_default()
            .push(line.to_owned());
        self
    }

    /// Calls of `slug` go to `base_url`.
    pub fn provider(self, slug: &str, base_url: &str) -> Config {
        self.set(
            &format!("providers.{slug}"),
            &format!("base_url = {base_url:?}"),
        )
    }

    /// A gateway of `account`, with further `key = value` lines.
    pub fn gateway(mut self, account: &str, id: &str, lines: &str) -> Config {
        self.gateways
            .push(format!("account = {account:?}\nid = {id:?}\n{lines}\n"));
        self
    }

    /// The file's text for a process whose files live in `folder`.
    pub fn render(&self, folder: &Path) -> String {
        let mut tables = self.tables.clone();
        for table in ["server", "admin"] {
            let lines = tables.entry(table.to_owned()).or_default();
            if !lines.iter().any(|line| line.starts_with("listen")) {
                lines.push("listen = \"127.0.0.1:0\"".to_owned());
            }
        }
        tables
            .entry("data".to_owned())
            .or_default()
            .push(format!("dir = {:?}", folder.join("data")));
        let mut text = String::new();
        for (table, lines) in &tables {
            writeln!(text, "[{table}]\n{}\n", lines.join("\n")).expect("a string takes all text");
        }
        for gateway in &self.gateways {
            writeln!(text, "[[gateways]]\n{gateway}").expect("a string takes all text");
        }
        text
    }
}

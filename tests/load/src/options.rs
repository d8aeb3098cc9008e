//! The command line.

use std::path::PathBuf;

use crate::exchange::Mode;

pub const USAGE: &str = "\
usage: load --gateway PROGRAM [--cpu N] [--rounds N] [--scale F] [--modes A,B] [--subjects A,B]
  --gateway PROGRAM  the built gateway
  --cpu N            CPU of what is measured; this process belongs on another (default 1)
  --rounds N         rounds over all modes (default 7)
  --scale F          times the usual number of requests (default 1)
  --modes A,B        of plain, prompt, burst, paced, hit (default all)
  --subjects A,B     of nginx, pingora, gateway, bodies (default all)";

pub struct Options {
    pub gateway: PathBuf,
    pub cpu: usize,
    pub rounds: usize,
    pub scale: f64,
    pub modes: Vec<Mode>,
    pub subjects: Vec<String>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            gateway: PathBuf::new(),
            cpu: 1,
            rounds: 7,
            scale: 1.0,
            modes: Mode::ALL.to_vec(),
            subjects: Vec::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("`{word}` needs a value\n{USAGE}"))?;
            let bad = || format!("`{word} {value}` is not understood\n{USAGE}");
            match word.as_str() {
                "--gateway" => {
                    let program = std::fs::canonicalize(value);
                    options.gateway = program.map_err(|error| format!("{value}: {error}"))?;
                }
                "--cpu" => options.cpu = value.parse().map_err(|_| bad())?,
                "--rounds" => options.rounds = value.parse().map_err(|_| bad())?,
                "--scale" => options.scale = value.parse().map_err(|_| bad())?,
                "--modes" => {
                    let modes = value.split(',').map(Mode::named).collect::<Option<_>>();
                    options.modes = modes.ok_or_else(bad)?;
                }
                "--subjects" => options.subjects = value.split(',').map(str::to_owned).collect(),
                _ => return Err(bad()),
            }
        }
        if options.gateway.as_os_str().is_empty() || options.rounds == 0 {
            return Err(USAGE.to_owned());
        }
        Ok(options)
    }

    pub fn wants(&self, subject: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|name| name == subject)
    }

    /// Requests of one round.
    pub fn requests(&self, mode: Mode) -> usize {
        ((mode.requests() as f64 * self.scale) as usize).max(crate::generator::CONNECTIONS)
    }
}

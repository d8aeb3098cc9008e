//! Log lines on stderr, as text or JSON. Prompts, answers and credentials never reach them.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Installs the subscriber of this process. `level` is ours; dependencies speak from `warn` up.
pub fn init(log: &Log) {
    let level = log.level.as_str();
    // The framework speaks of every stranger's broken head and lost idle connection as an error; both are
    // counted or harmless, and anybody could fill a log with them.
    const QUIET: &str = "pingora_proxy=off,pingora_core::apps=off,pingora_core::connectors=off";
    let filter = EnvFilter::new(format!(
        "warn,gateway={level},analytics={level},local_inference={level},providers={level},pingora=error,pingora_core=error,{QUIET}"
    ));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    if installed.is_err() {
        eprintln!("a log subscriber is already installed; keeping it");
    }
}

//! How far a transfer is, on a terminal; silent elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// `bytes`: of the whole file, where known by now.
    pub(crate) fn new(bytes: Option<u64>) -> Progress {
        let bar = ProgressBar::new(bytes.unwrap_or_default());
        let style = ProgressStyle::with_template(
            "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        );
        bar.set_style(style.expect("the template above is valid"));
        Progress(bar)
    }

    pub(crate) fn set_total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    /// Bytes that are there, resumed ones included.
    pub(crate) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    pub(crate) fn finish(&self) {
        self.0.finish();
    }
}

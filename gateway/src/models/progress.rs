//! How far a download is, on a terminal; silent elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

pub(super) struct Progress(ProgressBar);

impl Progress {
    /// `bytes`: of the whole file, where known by now.
    pub(super) fn new(bytes: Option<u64>) -> Progress {
        let bar = ProgressBar::new(bytes.unwrap_or_default());
        let style = ProgressStyle::with_template(
            "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        );
        bar.set_style(style.expect("the template above is valid"));
        Progress(bar)
    }

    pub(super) fn set_total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    /// Bytes that are there, resumed ones included.
    pub(super) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    pub(super) fn finish(&self) {
        self.0.finish();
    }
}

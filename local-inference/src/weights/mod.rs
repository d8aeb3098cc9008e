//! Model files, read in place.

pub(crate) mod gguf;

/// Maps a model file for reading.
pub(crate) fn map(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is read only and lives until the weights are packed. Whoever truncates a
    // model file in that second can end the process; `model pull` replaces files by rename.
    unsafe { memmap2::Mmap::map(file) }
}

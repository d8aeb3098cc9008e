//! Model files, read in place: a GGUF file, or a folder with `config.json` and safetensors.
//!
//! A file is mapped, its header checked against the bytes that are really there, and its tensors handed out as slices of
//! the mapping. Whoever loads a model packs them one by one and drops the files; nothing of them stays in memory.
//! Files come from outside: a broken one gives an error, never a panic and no allocation beyond its own size.

pub(crate) mod awq;
pub(crate) mod gguf;
pub(crate) mod safetensors;
#[cfg(test)]
mod tests;

use self::gguf::{Gguf, GgufError};
use self::safetensors::Folder;
use kernels::WeightKind;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum WeightsError {
    #[error("`{}`: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("`{file}`: {cause}")]
    File { file: String, cause: String },
    #[error("tensor `{0}` is missing")]
    Missing(String),
    #[error("tensor `{name}` has type {kind}, of which no kernel exists")]
    Type { name: String, kind: String },
    #[error("tensor `{name}`: {cause}")]
    Tensor { name: String, cause: String },
}

impl WeightsError {
    fn io(path: &Path, source: std::io::Error) -> WeightsError {
        WeightsError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// A tensor as its file holds it.
#[derive(Debug)]
pub(crate) struct RawTensor<'a> {
    pub kind: WeightKind,
    /// Slowest dimension first: `[columns, k]` for a matrix whose outputs are its rows.
    pub shape: Vec<usize>,
    /// Row-major blocks of `kind`. Owned where a format had to be rearranged.
    pub bytes: Cow<'a, [u8]>,
}

impl RawTensor<'_> {
    /// The numbers of a norm weight or bias; `None` for a quantised tensor.
    pub(crate) fn floats(&self) -> Option<Vec<f32>> {
        Some(match self.kind {
            WeightKind::F32 => {
                let (values, _) = self.bytes.as_chunks::<4>();
                values.iter().map(|v| f32::from_le_bytes(*v)).collect()
            }
            WeightKind::F16 => {
                let (values, _) = self.bytes.as_chunks::<2>();
                let float = |v: &[u8; 2]| half::f16::from_le_bytes(*v).to_f32();
                values.iter().map(float).collect()
            }
            WeightKind::Bf16 => {
                let (values, _) = self.bytes.as_chunks::<2>();
                let float = |v: &[u8; 2]| half::bf16::from_le_bytes(*v).to_f32();
                values.iter().map(float).collect()
            }
            _ => return None,
        })
    }
}

/// A model on disk, opened.
pub(crate) enum ModelFiles {
    Gguf(GgufFile),
    Folder(Folder),
}

impl ModelFiles {
    /// Opens a `.gguf` file, or a folder with `config.json` beside `model.safetensors` (or its index and shards).
    pub(crate) fn open(path: &Path) -> Result<ModelFiles, WeightsError> {
        match path.is_dir() {
            true => Ok(ModelFiles::Folder(Folder::open(path)?)),
            false => Ok(ModelFiles::Gguf(GgufFile::open(path)?)),
        }
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        match self {
            ModelFiles::Gguf(file) => file.header.has_tensor(name),
            ModelFiles::Folder(folder) => folder.has_tensor(name) || awq::has_tensor(folder, name),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<RawTensor<'_>, WeightsError> {
        match self {
            ModelFiles::Gguf(file) => file.tensor(name),
            ModelFiles::Folder(folder) if awq::has_tensor(folder, name) => {
                awq::tensor(folder, name)
            }
            ModelFiles::Folder(folder) => folder.tensor(name),
        }
    }
}

/// A mapped GGUF file and its header.
pub(crate) struct GgufFile {
    pub header: Gguf,
    map: memmap2::Mmap,
}

impl GgufFile {
    fn open(path: &Path) -> Result<GgufFile, WeightsError> {
        let map = map_path(path)?;
        let header = Gguf::parse(&map)?;
        Ok(GgufFile { header, map })
    }

    fn tensor(&self, name: &str) -> Result<RawTensor<'_>, WeightsError> {
        let info = self.header.tensor(name)?;
        let kind = gguf::weight_kind(info.kind).ok_or_else(|| WeightsError::Type {
            name: name.to_owned(),
            kind: info.kind.to_string(),
        })?;
        let bounds = || GgufError::TensorBounds(name.to_owned());
        let mut shape = Vec::with_capacity(info.shape.len());
        for length in info.shape.iter().rev() {
            shape.push(usize::try_from(*length).map_err(|_| bounds())?);
        }
        let length = byte_length(kind, &shape).ok_or_else(bounds)?;
        let bytes = self.header.tensor_bytes(&self.map, name, length as u64)?;
        Ok(RawTensor {
            kind,
            shape,
            bytes: Cow::Borrowed(bytes),
        })
    }
}

/// Bytes of a tensor; `None` when rows are not whole blocks or the product does not fit.
fn byte_length(kind: WeightKind, shape: &[usize]) -> Option<usize> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.block_len()) {
        return None;
    }
    let elements = shape
        .iter()
        .try_fold(1usize, |product, n| product.checked_mul(*n))?;
    (elements / kind.block_len()).checked_mul(kind.block_bytes())
}

fn map_path(path: &Path) -> Result<memmap2::Mmap, WeightsError> {
    let io = |source| WeightsError::io(path, source);
    map(&std::fs::File::open(path).map_err(io)?).map_err(io)
}

/// Maps a model file for reading.
pub(crate) fn map(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is read only and lives until the weights are packed. Whoever truncates a
    // model file in that second can end the process; `model pull` replaces files by rename.
    unsafe { memmap2::Mmap::map(file) }
}

//! An adapter put into its base for good: for whoever serves that one only, or elsewhere.

use super::tensors::{Pair, Tensors};
use super::{AdapterError, AdapterFiles};
use crate::error::EngineError;
use crate::model::{self, names::NamesInFile};
use crate::weights::safetensors::Folder;
use crate::weights::{ModelFiles, RawTensor};
use half::{bf16, f16};
use kernels::WeightKind;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// Writes a model folder at `out` that answers as the base in the folder `base` does with the adapter: its safetensors with
/// `scale * B A` added and rounded to the type they had, and its other files as they are. Returns how many matrices changed.
///
/// # Errors
/// Files that do not fit; a base that is no folder of plain numbers (a quantised matrix cannot hold the sum); `out` exists.
pub fn merge_adapter(base: &Path, files: &AdapterFiles, out: &Path) -> Result<usize, AdapterError> {
    if out.exists() {
        return Err(load(&format!("`{}` is there already", out.display())).into());
    }
    let model = ModelFiles::open(base).map_err(|error| load(&error))?;
    let ModelFiles::Folder(folder) = &model else {
        let cause =
            "a GGUF file's matrices cannot take an adapter in: name a folder with safetensors";
        return Err(load(&cause).into());
    };
    let (targets, names) = model::targets(&model).map_err(|error| load(&error))?;
    let names = NamesInFile::find(names, &model).map_err(|error| load(&error))?;
    let tensors = Tensors::open(files, &targets)?;
    let mut pairs: HashMap<String, Pair<'_>> = HashMap::new();
    for pair in tensors.pairs() {
        let tensor = format!("{}.weight", names.in_layer(pair.layer, pair.module.path));
        let found = folder.tensor(&tensor).map_err(|error| load(&error))?;
        let expected = [pair.module.columns.len(), pair.module.k];
        if found.shape != expected {
            let cause = format!("`{tensor}` has shape {:?}, not {expected:?}", found.shape);
            return Err(load(&cause).into());
        }
        pairs.insert(tensor, pair);
    }
    let changed = pairs.len();
    write(base, folder, &pairs, out).map_err(|error| load(&error.as_ref()))?;
    Ok(changed)
}

fn load(cause: &dyn std::fmt::Display) -> EngineError {
    EngineError::Load(cause.to_string())
}

/// Into a folder beside `out` first: what stands at `out` is whole.
fn write(
    base: &Path,
    folder: &Folder,
    pairs: &HashMap<String, Pair<'_>>,
    out: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    std::fs::create_dir_all(part)?;
    for file in std::fs::read_dir(base)? {
        let file = file?;
        let name = file.file_name();
        let text = name.to_string_lossy();
        let is_weights =
            text.ends_with(".safetensors") || text.ends_with(".safetensors.index.json");
        if file.file_type()?.is_file() && !is_weights {
            std::fs::copy(file.path(), part.join(&name))?;
        }
    }
    let mut names: Vec<&str> = folder.names().collect();
    names.sort_unstable();
    let mut merged = Vec::with_capacity(names.len());
    for name in names {
        let tensor = folder.tensor(name)?;
        let pair = pairs.get(name);
        merged.push((name, Merged { tensor, pair }));
    }
    safetensors::serialize_to_file(merged, None, &part.join("model.safetensors"))?;
    std::fs::rename(part, out)?;
    Ok(())
}

/// A tensor of the new file; computed when it is written, so that no two are in memory.
struct Merged<'a> {
    tensor: RawTensor<'a>,
    pair: Option<&'a Pair<'a>>,
}

impl View for Merged<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.kind {
            WeightKind::F16 => Dtype::F16,
            WeightKind::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let Some(pair) = self.pair else {
            return Cow::Borrowed(&self.tensor.bytes);
        };
        let mut values = self.tensor.floats().unwrap_or_default();
        let k = pair.module.k;
        for (column, row) in values.chunks_exact_mut(k).enumerate() {
            let weights = &pair.b[column * pair.rank..][..pair.rank];
            for (weight, a) in weights.iter().zip(pair.a.chunks_exact(k)) {
                for (value, a) in row.iter_mut().zip(a) {
                    *value += pair.scale * weight * a;
                }
            }
        }
        let values = values.into_iter();
        Cow::Owned(match self.dtype() {
            Dtype::F16 => values
                .flat_map(|v| f16::from_f32(v).to_le_bytes())
                .collect(),
            Dtype::BF16 => values
                .flat_map(|v| bf16::from_f32(v).to_le_bytes())
                .collect(),
            _ => values.flat_map(f32::to_le_bytes).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.bytes.len()
    }
}

//! A model folder: `config.json`, and `model.safetensors` or the shards `model.safetensors.index.json` lists.

use super::{RawTensor, WeightsError, map_path};
use ::safetensors::tensor::{Dtype, Metadata, SafeTensors};
use kernels::WeightKind;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// Real configurations take a few kilobytes. A longer one is refused unread.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// An index names each tensor once: 100 bytes for some thousands of them. A longer one is refused unread.
const MAX_INDEX_BYTES: u64 = 16 * 1024 * 1024;
/// The largest published models come in fewer. More are refused.
const MAX_SHARDS: usize = 512;

/// An opened folder.
pub(crate) struct Folder {
    pub config: Map<String, Value>,
    shards: Vec<Shard>,
    /// Where each tensor is: a place in `shards`.
    places: HashMap<String, usize>,
}

struct Shard {
    map: memmap2::Mmap,
    header: Metadata,
    /// First byte behind the header.
    data_start: usize,
}

/// A tensor before anything is known of what it is for.
pub(super) struct View<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder, WeightsError> {
        let config = read_object(&path.join("config.json"), MAX_CONFIG_BYTES)?;
        let index = path.join("model.safetensors.index.json");
        let files = match index.exists() {
            true => shard_names(&index)?,
            false => vec!["model.safetensors".to_owned()],
        };
        let mut shards = Vec::new();
        let mut places = HashMap::new();
        for file in files {
            let shard = Shard::open(&path.join(&file))?;
            for name in shard.header.offset_keys() {
                places.insert(name, shards.len());
            }
            shards.push(shard);
        }
        Ok(Folder {
            config,
            shards,
            places,
        })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    pub(super) fn view(&self, name: &str) -> Result<View<'_>, WeightsError> {
        let missing = || WeightsError::Missing(name.to_owned());
        let shard = &self.shards[*self.places.get(name).ok_or_else(missing)?];
        let info = shard.header.info(name).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        Ok(View {
            dtype: info.dtype,
            shape: &info.shape,
            bytes: &shard.map[shard.data_start..][start..end],
        })
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<RawTensor<'_>, WeightsError> {
        let view = self.view(name)?;
        let kind = match view.dtype {
            Dtype::F32 => WeightKind::F32,
            Dtype::F16 => WeightKind::F16,
            Dtype::BF16 => WeightKind::Bf16,
            other => {
                return Err(WeightsError::Type {
                    name: name.to_owned(),
                    kind: format!("{other:?}"),
                });
            }
        };
        Ok(RawTensor {
            kind,
            shape: view.shape.to_vec(),
            bytes: Cow::Borrowed(view.bytes),
        })
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Shard, WeightsError> {
        let map = map_path(path)?;
        // Checks every offset against the others and against the file's end: what `view` slices is inside.
        let (header_bytes, header) =
            SafeTensors::read_metadata(&map).map_err(|error| fault(path, error))?;
        Ok(Shard {
            map,
            header,
            data_start: header_bytes + size_of::<u64>(),
        })
    }
}

/// The files an index names, each once. They lie beside it: a name with a folder in it is refused.
fn shard_names(index: &Path) -> Result<Vec<String>, WeightsError> {
    let object = read_object(index, MAX_INDEX_BYTES)?;
    let Some(Value::Object(places)) = object.get("weight_map") else {
        return Err(fault(index, "has no `weight_map`"));
    };
    let mut names: Vec<String> = Vec::new();
    for file in places.values() {
        let name = file.as_str().unwrap_or_default();
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(fault(index, format!("{file} is no name of a shard")));
        }
        if names.iter().all(|known| known != name) {
            names.push(name.to_owned());
        }
        if names.len() > MAX_SHARDS {
            return Err(fault(index, format!("names more than {MAX_SHARDS} shards")));
        }
    }
    Ok(names)
}

fn read_object(path: &Path, max_bytes: u64) -> Result<Map<String, Value>, WeightsError> {
    let io = |source| WeightsError::io(path, source);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > max_bytes {
        let cause = format!("has {length} bytes, at most {max_bytes} are read");
        return Err(fault(path, cause));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&bytes).map_err(|error| fault(path, error))
}

fn fault(path: &Path, cause: impl std::fmt::Display) -> WeightsError {
    WeightsError::File {
        file: path.display().to_string(),
        cause: cause.to_string(),
    }
}

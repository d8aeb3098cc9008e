//! GGUF (version 2 and 3): a header of keys and tensor descriptions, then the tensors' bytes.
//!
//! The file comes from outside, so nothing in it is believed: every count and length is checked against the bytes that are
//! really there before anything is allocated, and the header may not pass [`MAX_HEADER_BYTES`].

use kernels::WeightKind;
use std::collections::HashMap;

/// Vocabulary and merges of the largest tokenizers take about 20 MB. A longer header is refused.
const MAX_HEADER_BYTES: usize = 32 * 1024 * 1024;
/// Arrays of arrays are legal and unused; deeper ones are refused.
const MAX_ARRAY_DEPTH: u32 = 2;
/// Tensors of models have one or two dimensions, of pictures four. More are refused.
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    /// Arrays keep their numbers as such: a header of small integers must not grow thirtyfold in memory.
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// An array of arrays or of bools, read past: no key of a model holds one.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// Fastest dimension first: `[k, columns]` for a matrix.
    pub shape: Vec<u64>,
    /// The file's number for the type; see [`weight_kind`].
    pub kind: u32,
    offset: u64,
}

/// The kernels' name for a type number of the format; `None` for those without a kernel.
pub(crate) fn weight_kind(number: u32) -> Option<WeightKind> {
    Some(match number {
        0 => WeightKind::F32,
        1 => WeightKind::F16,
        2 => WeightKind::Q4_0,
        3 => WeightKind::Q4_1,
        6 => WeightKind::Q5_0,
        7 => WeightKind::Q5_1,
        8 => WeightKind::Q8_0,
        12 => WeightKind::Q4K,
        13 => WeightKind::Q5K,
        14 => WeightKind::Q6K,
        30 => WeightKind::Bf16,
        _ => return None,
    })
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GgufError {
    #[error("not a GGUF file")]
    Magic,
    #[error("GGUF version {0} is not known (2 and 3 are)")]
    Version(u32),
    #[error("header ends early or is longer than {MAX_HEADER_BYTES} bytes")]
    Header,
    #[error("value type {0} is not known")]
    ValueType(u32),
    #[error("text is not valid UTF-8")]
    Text,
    #[error("key `{0}` is missing or of another type")]
    Key(String),
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    #[error("tensor `{0}` lies outside the file")]
    TensorBounds(String),
}

/// The description of a file; tensors are slices of the bytes it was read from.
#[derive(Debug)]
pub(crate) struct Gguf {
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
    data_start: u64,
}

impl Gguf {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
        let header = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
        let mut reader = Reader {
            bytes: header,
            at: 0,
        };
        if reader.take(4) != Ok(b"GGUF") {
            return Err(GgufError::Magic);
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = reader.u64()?;
        let key_count = reader.u64()?;
        let mut metadata = HashMap::new();
        for _ in 0..key_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            metadata.insert(key, reader.value(kind, 0)?);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let dimensions = reader.u32()?;
            if dimensions > MAX_DIMENSIONS {
                return Err(GgufError::Header);
            }
            let mut shape = Vec::new();
            for _ in 0..dimensions {
                shape.push(reader.u64()?);
            }
            let kind = reader.u32()?;
            let offset = reader.u64()?;
            tensors.insert(
                name,
                TensorInfo {
                    shape,
                    kind,
                    offset,
                },
            );
        }
        let alignment = match metadata.get("general.alignment") {
            Some(Value::Integer(value)) if *value > 0 => *value as u64,
            _ => DEFAULT_ALIGNMENT,
        };
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        Ok(Gguf {
            metadata,
            tensors,
            data_start,
        })
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensors
            .get(name)
            .ok_or_else(|| GgufError::MissingTensor(name.to_owned()))
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The `length` bytes of a tensor in the bytes that were parsed.
    pub(crate) fn tensor_bytes<'a>(
        &self,
        bytes: &'a [u8],
        name: &str,
        length: u64,
    ) -> Result<&'a [u8], GgufError> {
        let info = self.tensor(name)?;
        let start = self.data_start.checked_add(info.offset);
        let range = start.and_then(|start| {
            Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(length)?).ok()?)
        });
        range
            .and_then(|range| bytes.get(range))
            .ok_or_else(|| GgufError::TensorBounds(name.to_owned()))
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn integer(&self, key: &str) -> Result<i64, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Integer(value)) => Ok(*value),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<f64, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Float(value)) => Ok(*value),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Texts(texts)) => Ok(texts.iter().map(String::as_str).collect()),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn integers(&self, key: &str) -> Result<&[i64], GgufError> {
        match self.metadata.get(key) {
            Some(Value::Integers(integers)) => Ok(integers),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn floats(&self, key: &str) -> Result<&[f32], GgufError> {
        match self.metadata.get(key) {
            Some(Value::Floats(floats)) => Ok(floats),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Bool(flag)) => Ok(*flag),
            _ => Err(GgufError::Key(key.to_owned())),
        }
    }

    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(count).ok_or(GgufError::Header)?;
        let part = self.bytes.get(self.at..end).ok_or(GgufError::Header)?;
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        Ok(self
            .take(N)?
            .try_into()
            .expect("take gives exactly N bytes"))
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = usize::try_from(self.u64()?).map_err(|_| GgufError::Header)?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| GgufError::Text)
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Integer(i64::from(u8::from_le_bytes(self.array()?))),
            1 => Value::Integer(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Integer(i64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Integer(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Integer(i64::from(self.u32()?)),
            5 => Value::Integer(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth < MAX_ARRAY_DEPTH => self.array_value(depth)?,
            10 => Value::Integer(i64::from_le_bytes(self.array()?)),
            11 => Value::Integer(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(GgufError::ValueType(other)),
        })
    }

    /// Grown as elements are really read: a claimed length allocates nothing.
    fn array_value(&mut self, depth: u32) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let mut array = match kind {
            6 | 12 => Value::Floats(Vec::new()),
            7 | 9 => Value::Skipped,
            8 => Value::Texts(Vec::new()),
            _ => Value::Integers(Vec::new()),
        };
        for _ in 0..count {
            match (&mut array, self.value(kind, depth + 1)?) {
                (Value::Integers(array), Value::Integer(value)) => array.push(value),
                (Value::Floats(array), Value::Float(value)) => array.push(value as f32),
                (Value::Texts(array), Value::Text(value)) => array.push(value),
                _ => {}
            }
        }
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(out: &mut Vec<u8>, value: &str) {
        out.extend((value.len() as u64).to_le_bytes());
        out.extend(value.as_bytes());
    }

    /// One text key, one array of two integers, one tensor of four f32.
    fn sample() -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        text(&mut out, "general.architecture");
        out.extend(8u32.to_le_bytes());
        text(&mut out, "llama");
        text(&mut out, "numbers");
        out.extend(9u32.to_le_bytes());
        out.extend(5u32.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend([(-1i32).to_le_bytes(), 7i32.to_le_bytes()].concat());
        text(&mut out, "weight");
        out.extend(1u32.to_le_bytes());
        out.extend(4u64.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend([1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()));
        out
    }

    #[test]
    fn reads_keys_and_tensors() {
        let bytes = sample();
        let file = Gguf::parse(&bytes).expect("a valid file");
        assert_eq!(file.text("general.architecture"), Ok("llama"));
        assert_eq!(file.integers("numbers"), Ok([-1, 7].as_slice()));
        assert_eq!(
            file.tensor("weight").map(|info| info.shape.clone()),
            Ok(vec![4])
        );
        let data = file
            .tensor_bytes(&bytes, "weight", 16)
            .expect("inside the file");
        assert_eq!(data[4..8], 2f32.to_le_bytes());
        assert!(file.tensor_bytes(&bytes, "weight", 17).is_err());
        assert!(file.tensor_bytes(&bytes, "weight", u64::MAX).is_err());
        assert_eq!(
            file.integer("numbers"),
            Err(GgufError::Key("numbers".to_owned()))
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error_or_a_file_never_a_panic() {
        let bytes = sample();
        for end in 0..bytes.len() - 16 {
            let _ = Gguf::parse(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = value;
                if let Ok(file) = Gguf::parse(&broken) {
                    let _ = file.tensor_bytes(&broken, "weight", 16);
                }
            }
        }
        assert_eq!(Gguf::parse(b"").err(), Some(GgufError::Magic));
        assert_eq!(
            Gguf::parse(b"GGUF\x01\0\0\0").err(),
            Some(GgufError::Version(1))
        );
    }
}

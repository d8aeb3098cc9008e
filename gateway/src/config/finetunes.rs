//! What fine-tunes may be: the written form and the resolved one.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;

/// `[finetunes]` as people write it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetunesEntry {
    /// The original's limits: `today` (300 MiB, rank 32, 100 an account) or `launch` (100 MiB, rank 8, 30 an account).
    pub limits: Preset,
    /// Largest adapter_model.safetensors taken, bytes; unset = as `limits` says.
    pub max_bytes: Option<u64>,
    /// Highest rank of an adapter; unset = as `limits` says.
    pub max_rank: Option<u32>,
    /// Fine-tunes an account may have; unset = as `limits` says.
    pub max_per_account: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    Launch,
    #[default]
    Today,
}

/// What the program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of the weights' file.
    pub max_bytes: u64,
    pub max_rank: u32,
    pub max_per_account: u64,
}

impl Limits {
    pub(super) fn from_entry(entry: &FinetunesEntry) -> Limits {
        let (mib, rank, count) = match entry.limits {
            Preset::Launch => (100, 8, 30),
            Preset::Today => (300, 32, 100),
        };
        Limits {
            max_bytes: entry.max_bytes.unwrap_or(mib * MIB),
            max_rank: entry.max_rank.unwrap_or(rank),
            max_per_account: entry.max_per_account.unwrap_or(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_gives_what_is_not_written() {
        let limits = |text: &str| Limits::from_entry(&toml::from_str(text).unwrap());
        let (bytes, rank, count) = (300 * MIB, 32, 100);
        let today = Limits {
            max_bytes: bytes,
            max_rank: rank,
            max_per_account: count,
        };
        assert_eq!(limits(""), today);
        assert_eq!(
            limits("max_rank = 64"),
            Limits {
                max_rank: 64,
                ..today
            }
        );
        assert_eq!(
            limits("limits = \"launch\"\nmax_per_account = 31"),
            Limits {
                max_bytes: 100 * MIB,
                max_rank: 8,
                max_per_account: 31
            }
        );
    }
}

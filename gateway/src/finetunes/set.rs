//! All fine-tunes at one moment, found by what requests call them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use local_inference::AdapterHash;

use super::{FileHash, Finetune};

#[derive(Default)]
pub struct FinetuneSet {
    /// Oldest first, within each account.
    by_account: HashMap<Arc<str>, Vec<Arc<Finetune>>>,
    /// Of all accounts, oldest first.
    public: Vec<Arc<Finetune>>,
    files: HashSet<FileHash>,
    /// Files of every adapter there is or was while this process ran: requests may still wait for a replaced one. A hundred
    /// bytes each; the files themselves go with a sweep.
    adapters: HashMap<AdapterHash, (FileHash, FileHash)>,
}

impl FinetuneSet {
    pub(super) fn new(list: Vec<Finetune>, before: &FinetuneSet) -> FinetuneSet {
        let mut set = FinetuneSet {
            adapters: before.adapters.clone(),
            ..FinetuneSet::default()
        };
        for finetune in list.into_iter().map(Arc::new) {
            let assets = [finetune.config, finetune.weights];
            set.files
                .extend(assets.iter().flatten().map(|asset| asset.hash));
            if let (Some(adapter), [Some(config), Some(weights)]) = (finetune.adapter(), assets) {
                set.adapters.insert(adapter, (config.hash, weights.hash));
            }
            if finetune.is_public {
                set.public.push(Arc::clone(&finetune));
            }
            let account = Arc::clone(&finetune.account);
            set.by_account.entry(account).or_default().push(finetune);
        }
        set
    }

    pub fn of_account(&self, account: &str) -> &[Arc<Finetune>] {
        self.by_account.get(account).map_or(&[], Vec::as_slice)
    }

    pub fn public(&self) -> &[Arc<Finetune>] {
        &self.public
    }

    /// The account's own.
    pub fn own(&self, account: &str, id_or_name: &str) -> Option<&Arc<Finetune>> {
        let mut own = self.of_account(account).iter();
        own.find(|finetune| finetune.is_called(id_or_name))
    }

    /// What an account may use: its own, then what is public. Of public ones with one name the oldest.
    pub fn usable(&self, account: &str, id_or_name: &str) -> Option<&Arc<Finetune>> {
        let mut public = self.public.iter();
        self.own(account, id_or_name)
            .or_else(|| public.find(|finetune| finetune.is_called(id_or_name)))
    }

    /// Hashes of configuration and weights.
    pub fn files_of(&self, adapter: AdapterHash) -> Option<(FileHash, FileHash)> {
        self.adapters.get(&adapter).copied()
    }

    pub fn has_file(&self, hash: FileHash) -> bool {
        self.files.contains(&hash)
    }
}

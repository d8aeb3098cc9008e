//! Where the engine gets adapters' files from: the store's folder, read and checked away from the async threads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use local_inference::{AdapterFiles, AdapterRef, AdapterSource};

use super::Finetunes;

pub struct Source(pub Arc<Finetunes>);

impl AdapterSource for Source {
    fn fetch(
        &self,
        adapter: &AdapterRef,
    ) -> Pin<Box<dyn Future<Output = Result<AdapterFiles, String>> + Send>> {
        let finetunes = Arc::clone(&self.0);
        let hash = adapter.hash;
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || {
                let files = finetunes.load().files_of(hash);
                let (config, weights) = files.ok_or("no fine-tune has these files")?;
                let read = |hash| {
                    let read = finetunes.folder().read(hash);
                    read.map_err(|error| format!("its files cannot be read: {error}"))
                };
                Ok::<_, String>(AdapterFiles {
                    config: read(config)?,
                    weights: read(weights)?,
                })
            });
            read.await.unwrap_or_else(|error| Err(error.to_string()))
        })
    }
}

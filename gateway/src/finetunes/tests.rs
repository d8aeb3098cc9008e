use std::path::PathBuf;

use bytes::Bytes;
use local_inference::{AdapterRef, AdapterSource};

use super::*;

/// A data directory of its own, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        Place(std::env::temp_dir().join(format!("finetunes-{}", Uuid::new_v4())))
    }

    fn open(&self) -> Arc<Finetunes> {
        let state = Arc::new(State::open(&self.0).unwrap());
        let folder = Folder::open(&self.0).unwrap();
        Arc::new(Finetunes::open(state, folder).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const LIMITS: Limits = Limits {
    max_bytes: 1000,
    max_rank: 8,
    max_per_account: 2,
};

fn new(account: &str, name: &str, is_public: bool) -> NewFinetune {
    NewFinetune {
        account: account.into(),
        name: name.to_owned(),
        model: "@cf/a/b".to_owned(),
        description: String::new(),
        is_public,
    }
}

fn put(finetunes: &Finetunes, text: &str) -> Option<Asset> {
    let mut receiving = finetunes.folder().receive().unwrap();
    receiving
        .write(&[Bytes::copy_from_slice(text.as_bytes())])
        .unwrap();
    Some(receiving.keep().unwrap())
}

#[test]
fn names_are_an_accounts_own_and_so_is_their_number() {
    let place = Place::new();
    let store = place.open();
    let made = store.create(&new("a", "one", false), &LIMITS).unwrap();
    assert_eq!(store.load().own("a", "one"), Some(&made));
    assert_eq!(store.load().own("a", &made.id), Some(&made));
    assert_eq!(store.load().own("b", &made.id), None);
    let error = store.create(&new("a", "one", false), &LIMITS).unwrap_err();
    assert!(
        error.to_string().contains("`one` exists already"),
        "{error}"
    );
    store.create(&new("a", "two", false), &LIMITS).unwrap();
    let error = store
        .create(&new("a", "three", false), &LIMITS)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has 2 fine-tunes and may have 2")
    );
    store.create(&new("b", "one", false), &LIMITS).unwrap();
    store.delete(&made).unwrap();
    store.create(&new("a", "three", false), &LIMITS).unwrap();
    for wrong in [
        "",
        "a/b",
        " a",
        "public",
        &Uuid::new_v4().to_string(),
        "cf-public-x",
    ] {
        let error = store.create(&new("c", wrong, false), &LIMITS).unwrap_err();
        assert!(matches!(error, FinetuneError::Invalid(_)), "{wrong}");
    }
    let names = |account: &str| -> Vec<String> {
        let set = place.open().load();
        let own = set.of_account(account).iter();
        own.map(|finetune| finetune.name.to_string()).collect()
    };
    assert_eq!(names("a"), ["two", "three"], "after a restart too");
}

#[test]
fn own_ones_come_before_public_ones() {
    let place = Place::new();
    let store = place.open();
    let public = store
        .create(&new("a", "cf-public-x", true), &LIMITS)
        .unwrap();
    assert_eq!(store.load().usable("b", "cf-public-x"), Some(&public));
    assert_eq!(store.load().usable("b", &public.id), Some(&public));
    let own = store
        .create(&new("b", "cf-public-x", true), &LIMITS)
        .unwrap();
    assert_eq!(store.load().usable("b", "cf-public-x"), Some(&own));
    assert_eq!(
        store.load().usable("c", "cf-public-x"),
        Some(&public),
        "the oldest"
    );
    assert_eq!(store.load().public().len(), 2);
}

#[tokio::test]
async fn a_replaced_adapter_is_another_and_the_old_one_can_still_be_fetched() {
    let place = Place::new();
    let store = place.open();
    let made = store.create(&new("a", "one", false), &LIMITS).unwrap();
    assert_eq!(made.adapter(), None);
    assert_eq!(made.missing().len(), 2);
    let first = Finetune {
        config: put(&store, "config"),
        weights: put(&store, "weights"),
        rank: Some(4),
        ..Finetune::clone(&made)
    };
    let first = store.attach(&made, &first).unwrap();
    assert_eq!(place.open().load().own("a", "one"), Some(&first));
    let second = Finetune {
        weights: put(&store, "other weights"),
        ..Finetune::clone(&first)
    };
    assert!(matches!(
        store.attach(&made, &second),
        Err(FinetuneError::Changed)
    ));
    let second = store.attach(&first, &second).unwrap();
    let (old, now) = (first.adapter().unwrap(), second.adapter().unwrap());
    assert_ne!(old, now);
    store.delete(&second).unwrap();
    let source = Source(Arc::clone(&store));
    let fetch = |hash| {
        source.fetch(&AdapterRef {
            id: Arc::clone(&made.id),
            hash,
        })
    };
    assert_eq!(fetch(old).await.unwrap().weights, b"weights");
    assert_eq!(fetch(now).await.unwrap().weights, b"other weights");
    assert_eq!(fetch(now).await.unwrap().config, b"config");
    std::fs::write(
        store.folder().place(second.weights.unwrap().hash),
        "changed",
    )
    .unwrap();
    let error = fetch(now).await.err().unwrap();
    assert!(
        error.contains("does not hold what its name says"),
        "{error}"
    );
    let error = fetch(AdapterHash([0; 32])).await.err().unwrap();
    assert!(error.contains("no fine-tune"), "{error}");
}

#[test]
fn another_process_s_change_is_seen() {
    let place = Place::new();
    let (server, other) = (place.open(), place.open());
    let made = other.create(&new("a", "one", false), &LIMITS).unwrap();
    assert!(server.load().own("a", "one").is_none());
    server.refresh().unwrap();
    assert_eq!(server.load().own("a", "one"), Some(&made));
}

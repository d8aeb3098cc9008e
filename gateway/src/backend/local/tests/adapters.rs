//! Adapters by name: what is found, what is refused, and what the cache is told.

use super::*;
use crate::config::Limits;
use crate::finetunes::{Asset, Finetune, NewFinetune};

const LIMITS: Limits = Limits {
    max_bytes: 1000,
    max_rank: 8,
    max_per_account: 10,
};

struct Shop {
    local: Arc<Local>,
    /// Keeps the store's folder; gone with it.
    path: std::path::PathBuf,
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Shop {
    fn open() -> Shop {
        let path = std::env::temp_dir().join(format!("shop-{}", uuid::Uuid::new_v4()));
        let state = Arc::new(State::open(&path).expect("a state file"));
        let folder = Folder::open(&path).expect("a folder");
        let store = Arc::new(Finetunes::open(state, folder).expect("a store"));
        let local = Local::around(says("ok"), &settings(), store, Box::new(|_| {}));
        Shop { local, path }
    }

    fn make(&self, account: &str, name: &str, model: &str, is_public: bool) -> Arc<Finetune> {
        let new = NewFinetune {
            account: account.into(),
            name: name.to_owned(),
            model: model.to_owned(),
            description: String::new(),
            is_public,
        };
        self.local.finetunes().create(&new, &LIMITS).expect("room")
    }

    /// With files that only this byte tells from others'.
    fn fill(&self, was: &Finetune, byte: u8) -> Arc<Finetune> {
        let asset = |byte| {
            Some(Asset {
                hash: [byte; 32],
                bytes: 1,
            })
        };
        let now = Finetune {
            config: asset(0),
            weights: asset(byte),
            ..was.clone()
        };
        self.local.finetunes().attach(was, &now).expect("unchanged")
    }

    async fn ask(&self, rest: &str, body: Value) -> (u16, Value) {
        let caller = caller();
        let body = Bytes::from(body.to_string());
        let call = Call {
            host: Host::Rest,
            caller: &caller,
            rest,
            query: None,
            body: &body,
        };
        let reply = self.local.serve(call).await;
        let LocalBody::Full(bytes) = reply.body else {
            panic!("a whole answer");
        };
        (reply.status, serde_json::from_slice(&bytes).expect("JSON"))
    }
}

#[tokio::test]
async fn what_cannot_be_answered_with_is_refused_by_name() {
    let shop = Shop::open();
    shop.make("default", "empty", MODEL, false);
    let other = shop.make("default", "other", "@cf/no/such", false);
    shop.fill(&other, 1);
    shop.make("stranger", "theirs", MODEL, false);
    for (lora, code, status, text) in [
        ("nobody", 3037, 404, "Finetune nobody not found"),
        ("theirs", 3037, 404, "Finetune theirs not found"),
        ("empty", 3039, 400, "Finetune is missing required files"),
        (
            "other",
            3037,
            404,
            "Finetune other is for the model @cf/no/such, not for @cf/testing/scripted",
        ),
    ] {
        for body in [
            json!({"prompt": "x", "lora": lora}),
            json!({"prompt": "x", "raw": "true", "lora": lora}),
            json!({"messages": [{"role": "user", "content": "x"}], "lora": lora}),
        ] {
            let (got, answer) = shop.ask(NATIVE, body).await;
            let error = &answer["errors"][0];
            assert_eq!((got, &error["code"]), (status, &json!(code)), "{answer}");
            let message = error["message"].as_str().unwrap_or_default();
            assert!(message.contains(text), "{message}");
        }
        let path = format!("{NATIVE}:{lora}");
        let (got, answer) = shop.ask(&path, json!({"prompt": "x"})).await;
        assert_eq!((got, &answer["errors"][0]["code"]), (status, &json!(code)));
        let body = json!({"model": format!("{MODEL}:{lora}"), "messages": [{"role": "user", "content": "x"}]});
        let (got, answer) = shop.ask(CHAT, body).await;
        assert_eq!(got, status, "{answer}");
        assert_eq!(answer["error"]["param"], "lora");
    }
    let (status, answer) = shop.ask(NATIVE, json!({"prompt": "x", "lora": 7})).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (400, &json!(5006)));
    let both = json!({"prompt": "x", "lora": "a"});
    let (status, answer) = shop.ask(&format!("{NATIVE}:b"), both).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (400, &json!(5006)));
    let (status, answer) = shop
        .ask("run/@cf/no/such", json!({"prompt": "x", "lora": "a"}))
        .await;
    assert_eq!((status, &answer["errors"][0]["code"]), (400, &json!(5007)));
}

#[tokio::test]
async fn the_cache_is_told_which_adapter_answers() {
    let shop = Shop::open();
    let made = shop.make("default", "mine", MODEL, false);
    let first = shop.fill(&made, 1);
    let public = shop.fill(&shop.make("stranger", "theirs", MODEL, true), 2);
    let of = |rest: &str, body: Value| {
        let body = body.to_string();
        shop.local.adapter_of("default", rest, body.as_bytes())
    };
    let native = |lora: &str| of(NATIVE, json!({"prompt": "x", "lora": lora}));
    assert_eq!(native("mine"), first.adapter());
    assert_eq!(native(&made.id), first.adapter());
    assert_eq!(native("theirs"), public.adapter());
    assert_eq!(
        of(&format!("{NATIVE}:mine"), json!({"prompt": "x"})),
        first.adapter()
    );
    assert_eq!(
        of(CHAT, json!({"model": format!("{MODEL}:mine")})),
        first.adapter()
    );
    assert_eq!(
        of(CHAT, json!({"model": MODEL, "lora": "mine"})),
        first.adapter()
    );
    for none in [
        json!({"prompt": "x"}),
        json!({"lora": ""}),
        json!({"lora": "nobody"}),
    ] {
        assert_eq!(of(NATIVE, none), None);
    }
    let second = shop.fill(&first, 3);
    assert_eq!(native("mine"), second.adapter());
    assert_ne!(first.adapter(), second.adapter());
}

//! Vectors and rankings as bytes: the native form and OpenAI's list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use local_inference::catalogue;
use local_inference::{EmbedRequest, Embeddings, Pooling, RerankRequest};
use serde::Serialize;

use super::events::Tally;
use super::fault::{Fault, to_json};
use super::input::{Embed, EmbedForm, Rerank};
use super::reply::Usage;
use super::{Local, LocalReply};

impl Local {
    pub(super) async fn embed(&self, account: &str, asked: Embed) -> Result<LocalReply, Fault> {
        let Embed {
            model,
            texts,
            pooling,
            dimensions,
            form,
        } = asked;
        let request = EmbedRequest {
            model: known(&model),
            texts,
            pooling,
        };
        let told = self.engine.embed(request).await;
        let mut told = told.map_err(|error| Fault::engine(error, &model))?;
        if let Some(dimensions) = dimensions {
            shorten(&mut told, dimensions)?;
        }
        let tally = Tally {
            prompt_tokens: told.prompt_tokens,
            ..Tally::default()
        };
        let body = match form {
            EmbedForm::Native => native(&told, pooling, tally),
            EmbedForm::OpenAi { is_base64 } => openai(&told, is_base64, &model, tally),
        };
        Ok(LocalReply {
            took: Some(self.meter.bill(account, &model, tally).settle(tally)),
            ..LocalReply::json(200, body)
        })
    }

    pub(super) async fn rerank(&self, account: &str, asked: Rerank) -> Result<LocalReply, Fault> {
        let Rerank {
            model,
            query,
            contexts,
            top_k,
        } = asked;
        let request = RerankRequest {
            model: known(&model),
            query,
            contexts,
            top_k,
        };
        let ranking = self.engine.rerank(request).await;
        let ranking = ranking.map_err(|error| Fault::engine(error, &model))?;
        let tally = Tally {
            prompt_tokens: ranking.prompt_tokens,
            ..Tally::default()
        };
        let scores = ranking.scores.iter();
        let body = to_json(&Envelope::of(Ranked {
            response: scores.map(|&(id, score)| Rank { id, score }).collect(),
            usage: tally.into(),
        }));
        Ok(LocalReply {
            took: Some(self.meter.bill(account, &model, tally).settle(tally)),
            ..LocalReply::json(200, body)
        })
    }
}

/// The model's own name, where it is asked for by another.
fn known(model: &str) -> String {
    catalogue::find(model).map_or_else(|| model.to_owned(), |entry| entry.id.to_string())
}

/// Keeps the leading numbers of each vector and makes it of length 1 again. Only models trained for it keep their meaning
/// so; the caller asked for it.
fn shorten(told: &mut Embeddings, dimensions: usize) -> Result<(), Fault> {
    if dimensions > told.dimensions {
        let text = format!("'/dimensions' must be <= {}", told.dimensions);
        return Err(Fault::input("dimensions", text));
    }
    told.dimensions = dimensions;
    for vector in &mut told.vectors {
        vector.truncate(dimensions);
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x /= length);
        }
    }
    Ok(())
}

fn native(told: &Embeddings, pooling: Option<Pooling>, tally: Tally) -> Vec<u8> {
    to_json(&Envelope::of(Vectors {
        shape: [told.vectors.len(), told.dimensions],
        data: &told.vectors,
        pooling: pooling.map(|pooling| match pooling {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        }),
        usage: tally.into(),
    }))
}

fn openai(told: &Embeddings, is_base64: bool, model: &str, tally: Tally) -> Vec<u8> {
    let data = told.vectors.iter().enumerate().map(|(index, vector)| Item {
        object: "embedding",
        index,
        embedding: match is_base64 {
            true => Embedding::Base64(STANDARD.encode(little_endian(vector))),
            false => Embedding::Floats(vector),
        },
    });
    to_json(&List {
        object: "list",
        data: data.collect(),
        model,
        usage: ListUsage {
            prompt_tokens: tally.prompt_tokens,
            total_tokens: tally.prompt_tokens,
        },
    })
}

fn little_endian(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[derive(Serialize)]
struct Envelope<R> {
    result: R,
    success: bool,
    errors: [(); 0],
    messages: [(); 0],
}

impl<R> Envelope<R> {
    fn of(result: R) -> Envelope<R> {
        Envelope {
            result,
            success: true,
            errors: [],
            messages: [],
        }
    }
}

#[derive(Serialize)]
struct Vectors<'a> {
    shape: [usize; 2],
    data: &'a [Vec<f32>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pooling: Option<&'static str>,
    usage: Usage,
}

#[derive(Serialize)]
struct Ranked {
    response: Vec<Rank>,
    usage: Usage,
}

#[derive(Serialize)]
struct Rank {
    id: usize,
    score: f32,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: ListUsage,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Embedding<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Embedding<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct ListUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told() -> Embeddings {
        Embeddings {
            dimensions: 3,
            vectors: vec![vec![0.6, 0.8, 0.0], vec![0.0, 0.5, -0.5]],
            prompt_tokens: 9,
        }
    }

    const TALLY: Tally = Tally {
        prompt_tokens: 9,
        cached_tokens: 0,
        completion_tokens: 0,
    };

    fn read(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("JSON")
    }

    #[test]
    fn vectors_are_told_natively_with_their_shape() {
        let value = read(&native(&told(), Some(Pooling::Cls), TALLY));
        let result = &value["result"];
        assert_eq!(
            (&value["success"], &result["shape"], &result["pooling"]),
            (&json!(true), &json!([2, 3]), &json!("cls"))
        );
        assert_eq!(result["data"][1], json!([0.0, 0.5, -0.5]));
        assert_eq!(result["usage"]["total_tokens"], 9);
    }

    #[test]
    fn base64_is_little_endian_floats() {
        let value = read(&openai(&told(), true, "m", TALLY));
        let text = value["data"][1]["embedding"].as_str().expect("a text");
        let bytes = STANDARD.decode(text).expect("base64");
        let floats: Vec<f32> = bytes
            .chunks(4)
            .map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")))
            .collect();
        assert_eq!(floats, [0.0, 0.5, -0.5]);
        let value = read(&openai(&told(), false, "m", TALLY));
        assert_eq!(value["data"][1]["embedding"], json!([0.0, 0.5, -0.5]));
        assert_eq!(
            (&value["object"], &value["model"]),
            (&json!("list"), &json!("m"))
        );
        assert_eq!(
            value["usage"],
            json!({"prompt_tokens": 9, "total_tokens": 9})
        );
    }

    #[test]
    fn fewer_dimensions_are_made_whole_again() {
        let mut short = told();
        shorten(&mut short, 2).expect("fewer");
        assert_eq!(short.vectors, [vec![0.6, 0.8], vec![0.0, 1.0]]);
        let fault = shorten(&mut told(), 4).expect_err("more");
        assert!(fault.text.contains("'/dimensions' must be <= 3"));
    }
}

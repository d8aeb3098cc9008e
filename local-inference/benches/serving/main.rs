//! The gateway's engine beside llama.cpp's server on the same file, over HTTP, in one run.
//!
//! ```text
//! cargo build --release -p gateway
//! LLAMA_SERVER=<path to llama-server> cargo bench -p local-inference --bench serving -- [--model F.gguf] [--adapters] [--rounds N] [--threads N]
//! ```
//! The file is SmolLM2-135M-Instruct's, as `ai-gateway model pull` brings it, unless `--model` names another. Without `LLAMA_SERVER` only our figures are shown. `AI_GATEWAY_BIN` names another gateway binary than the release one.
//! The servers run one at a time and take turns every round, so that a machine with neighbours treats both alike;
//! medians over the rounds are shown, and the ratio ours / theirs. Both read the same prompts, greedy, with end tokens
//! ignored and without reuse of prompts.
//!
//! | figure | what |
//! | --- | --- |
//! | prompt | prompt tokens / time to the first token, prompt of about 512 tokens |
//! | decode xN | tokens after the first of N callers / time from the first token of any to the last of any; prompts of about 55 tokens |
//! | first token | time to the first token at about 450 prompt tokens |
//! | adapters | with `--adapters`: sixteen random LoRA adapters of rank 8 over all projections, uploaded as a client would |
//! | memory | resident set after the run; ours also without its attention memory, all of which is in use by then |
//! | CPU | CPU time of the server's process per generated token, decode x16; of ours also what its threads other than the engine's took |

mod adapters;
mod client;
mod servers;

use client::{Answer, Target, prompt};
use servers::{Cpu, Server};
use std::path::PathBuf;

const DECODE: [usize; 4] = [1, 4, 8, 16];
const DECODE_TOKENS: usize = 128;
const ADAPTERS: usize = 16;
/// Times a prompt is read in a round; the median counts.
const PROMPTS: u64 = 5;

/// What one server did in one round.
struct Round {
    prompt_rate: f64,
    first_token_ms: f64,
    decode_rates: [f64; DECODE.len()],
    cpu_us_a_token: f64,
    /// Of it, what the engine's threads did not use: HTTP, the pipeline, tokenizing prompts.
    door_us_a_token: f64,
    resident_mb: f64,
    adapted: Option<Adapted>,
}

/// With adapters.
struct Adapted {
    /// One caller.
    one_rate: f64,
    /// Sixteen callers, each with an adapter of its own.
    mixed_rate: f64,
    /// Sixteen callers with the same one.
    same_rate: f64,
    /// To the first token, of an adapter nobody used before and of one in use.
    cold_ms: f64,
    warm_ms: f64,
}

struct Options {
    model: PathBuf,
    rounds: usize,
    threads: usize,
    adapters: bool,
}

fn main() {
    let options = options();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder for adapters");
    let count = if options.adapters { ADAPTERS } else { 0 };
    let adapters: Vec<_> = (0..count)
        .map(|index| adapters::write(folder.path(), index).expect("a writable folder"))
        .collect();
    let llama = std::env::var_os("LLAMA_SERVER").map(PathBuf::from);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for index in 0..options.rounds {
        eprintln!("round {} of {}", index + 1, options.rounds);
        let mut server = Server::gateway(&options.model, options.threads);
        runtime.block_on(async {
            server.ready().await;
            server.upload(&adapters).await;
        });
        ours.push(runtime.block_on(round(&server, index)));
        drop(server);
        if let Some(binary) = &llama {
            let server = Server::llama(binary, &options.model, options.threads, &adapters);
            theirs.push(runtime.block_on(round(&server, index)));
        }
    }
    report(&options, &ours, &theirs);
}

fn options() -> Options {
    let mut options = Options {
        model: servers::target().join("models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        rounds: 3,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        adapters: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        // Cargo's own mark of a benchmark run.
        if name == "--bench" {
            continue;
        }
        if name == "--adapters" {
            options.adapters = true;
            continue;
        }
        let value = arguments.next().unwrap_or_default();
        let number = || {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{name} takes a number, got `{value}`"))
        };
        match name.as_str() {
            "--model" => options.model = PathBuf::from(&value),
            "--rounds" => options.rounds = number(),
            "--threads" => options.threads = number(),
            other => panic!(
                "unknown option {other}; --adapters, --model, --rounds and --threads are known"
            ),
        }
    }
    options
}

/// Everything is asked of one server; `seed` keeps rounds from sharing prompts.
async fn round(server: &Server, seed: usize) -> Round {
    let seed = (seed as u64 + 1) << 32;
    server.ready().await;
    // Loads the model and touches its pages; not counted.
    client::ask(&server.target, &prompt(seed, 32), 8).await;

    let (mut prompt_rates, mut first_token_ms) = (Vec::new(), Vec::new());
    for index in 0..PROMPTS {
        let long = read(server, &prompt(seed + 10 + index, 512)).await;
        prompt_rates.push(long.prompt_tokens as f64 / long.first.as_secs_f64());
        let middle = read(server, &prompt(seed + 20 + index, 450)).await;
        first_token_ms.push(middle.first.as_secs_f64() * 1e3);
    }
    let mut decode_rates = [0.0; DECODE.len()];
    let mut used = Cpu::default();
    for (rate, callers) in decode_rates.iter_mut().zip(DECODE) {
        let before = server.cpu();
        let answers = many(&vec![&server.target; callers], seed + 100 * callers as u64).await;
        let tokens: usize = answers.iter().map(|answer| answer.completion_tokens).sum();
        used = server.cpu().since(before).per(tokens);
        *rate = client::rate(&answers);
    }
    Round {
        prompt_rate: median(prompt_rates),
        first_token_ms: median(first_token_ms),
        decode_rates,
        cpu_us_a_token: used.engine_us + used.others_us,
        door_us_a_token: used.others_us,
        resident_mb: server.resident_kb() as f64 / 1024.0,
        adapted: match server.loras.is_empty() {
            true => None,
            false => Some(adapted(server, seed + 10_000).await),
        },
    }
}

async fn read(server: &Server, prompt: &str) -> Answer {
    client::ask(&server.target, prompt, 2).await
}

async fn adapted(server: &Server, seed: u64) -> Adapted {
    let targets: Vec<Target> = server
        .loras
        .iter()
        .map(|lora| Target {
            lora: Some(lora.clone()),
            ..server.target.clone()
        })
        .collect();
    let (mut cold_ms, mut warm_ms) = (Vec::new(), Vec::new());
    for (target, seed) in targets.iter().zip(seed..) {
        for (times, seed) in [(&mut cold_ms, seed), (&mut warm_ms, seed + 50)] {
            let answer = client::ask(target, &prompt(seed, 55), 2).await;
            times.push(answer.first.as_secs_f64() * 1e3);
        }
    }
    let mixed: Vec<&Target> = targets.iter().collect();
    Adapted {
        one_rate: client::rate(&many(&mixed[..1], seed + 200).await),
        mixed_rate: client::rate(&many(&mixed, seed + 300).await),
        same_rate: client::rate(&many(&vec![&targets[0]; targets.len()], seed + 400).await),
        cold_ms: median(cold_ms),
        warm_ms: median(warm_ms),
    }
}

async fn many(targets: &[&Target], seed: u64) -> Vec<Answer> {
    let mut tasks = Vec::new();
    for (caller, target) in targets.iter().enumerate() {
        let (target, prompt) = ((*target).clone(), prompt(seed + caller as u64, 55));
        tasks.push(tokio::spawn(async move {
            client::ask(&target, &prompt, DECODE_TOKENS).await
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("a caller's task"));
    }
    answers
}

fn report(options: &Options, ours: &[Round], theirs: &[Round]) {
    println!(
        "\n{}, {} threads, medians of {} rounds\n",
        options
            .model
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
        options.threads,
        options.rounds
    );
    println!("| figure | ours | llama.cpp | ours / theirs |\n| --- | --- | --- | --- |");
    let line = |name: &str, of: &dyn Fn(&Round) -> f64| {
        let mine = median(ours.iter().map(of).collect());
        match theirs.is_empty() {
            true => println!("| {name} | {mine:.1} | | |"),
            false => {
                let other = median(theirs.iter().map(of).collect());
                println!("| {name} | {mine:.1} | {other:.1} | {:.2} |", mine / other);
            }
        }
    };
    line("prompt, tok/s", &|round| round.prompt_rate);
    for (index, callers) in DECODE.into_iter().enumerate() {
        line(&format!("decode x{callers}, tok/s"), &|round| {
            round.decode_rates[index]
        });
    }
    if options.adapters {
        let figure = |of: fn(&Adapted) -> f64| {
            move |round: &Round| round.adapted.as_ref().map_or(f64::NAN, of)
        };
        line(
            "decode x1, its adapter, tok/s",
            &figure(|adapted| adapted.one_rate),
        );
        line(
            "decode x16, 16 adapters",
            &figure(|adapted| adapted.mixed_rate),
        );
        line(
            "decode x16, one adapter",
            &figure(|adapted| adapted.same_rate),
        );
        line(
            "first token, cold adapter, ms",
            &figure(|adapted| adapted.cold_ms),
        );
        line(
            "first token, warm adapter, ms",
            &figure(|adapted| adapted.warm_ms),
        );
    }
    line("first token at 450, ms", &|round| round.first_token_ms);
    line("CPU a token at x16, us", &|round| round.cpu_us_a_token);
    line("resident, MB", &|round| round.resident_mb);
    let resident = median(ours.iter().map(|round| round.resident_mb).collect());
    let above = resident - servers::KV_CACHE_MIB as f64;
    println!("\nresident above attention memory: {above:.1} MB");
    let door = |round: &Round| {
        100.0 * round.door_us_a_token / (round.cpu_us_a_token - round.door_us_a_token)
    };
    let door = median(ours.iter().map(door).collect());
    println!("HTTP and all else beside the engine at x16: {door:.1} % of the engine's CPU");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

//! The command line. Every command says what it did and what to try next.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::app::{self, ServeOptions};
use crate::auth::Permissions;
use crate::config::Config;
use crate::state::{NewToken, State};

#[derive(Parser)]
#[command(
    name = "ai-gateway",
    version,
    about = "A gateway between applications and AI models, speaking the wire format of Cloudflare AI Gateway and Workers AI",
    after_help = "Examples:\n  ai-gateway serve\n  ai-gateway serve --config config.toml\n  ai-gateway model pull\n  ai-gateway token create --label laptop\n  ai-gateway logs tail"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests until SIGTERM.
    #[command(
        after_help = "Examples:\n  ai-gateway serve\n  ai-gateway serve --config config.toml\n  ai-gateway serve --config config.toml --upgrade   # then: kill -QUIT <old pid>"
    )]
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Take over the listeners of the running process; it hands them over on SIGQUIT.
        #[arg(long)]
        upgrade: bool,
    },
    /// Read the configuration and say what is wrong with it.
    #[command(after_help = "Example:\n  ai-gateway check-config --config config.toml")]
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print every setting, its value, and where that came from.
    #[command(after_help = "Example:\n  ai-gateway print-config --config config.toml")]
    PrintConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Gateway tokens: the credentials callers show.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Models of the embedded engine.
    #[cfg(feature = "local")]
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Fine-tunes: LoRA adapters of your own, on a running gateway.
    #[cfg(feature = "local")]
    Finetune {
        #[command(subcommand)]
        command: FinetuneCommand,
    },
    /// Request logs.
    Logs {
        #[command(subcommand)]
        command: LogsCommand,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// Configuration file; without it every setting has its default.
    #[arg(long, value_name = "FILE", env = "AI_GATEWAY_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref())?)
    }
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token. It is shown once.
    #[command(
        after_help = "Example:\n  ai-gateway token create --label laptop --account acct --permissions gateway_run,gateway_read"
    )]
    Create {
        #[command(flatten)]
        config: ConfigFile,
        /// What rows call its holder.
        #[arg(long)]
        label: String,
        /// The account it is for; `*` for all.
        #[arg(long, default_value = "*")]
        account: String,
        /// The one gateway it is for; all of the account without this.
        #[arg(long)]
        gateway: Option<String>,
        /// Comma list of gateway_run, gateway_read, gateway_edit, workers_ai_read, workers_ai_edit, logs_metadata; all without this.
        #[arg(long)]
        permissions: Option<String>,
    },
    /// List the tokens (not their text, which is not kept).
    #[command(after_help = "Example:\n  ai-gateway token list --config config.toml")]
    List {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// End a token at once.
    #[command(after_help = "Example:\n  ai-gateway token revoke 01KA3M6Z8W0V9Q4T7R2N5B1C0D")]
    Revoke {
        #[command(flatten)]
        config: ConfigFile,
        /// Id as `token list` shows it.
        id: String,
    },
}

#[cfg(feature = "local")]
#[derive(Subcommand)]
enum ModelCommand {
    /// Download a model's files, with resume and checksum.
    #[command(
        after_help = "Examples:\n  ai-gateway model pull\n  ai-gateway model pull @cf/huggingfacetb/smollm2-135m-instruct"
    )]
    Pull {
        #[command(flatten)]
        config: ConfigFile,
        /// Model id; the configured ones without this.
        model: Option<String>,
        /// Access token for models whose licence has to be accepted first.
        #[arg(long, value_name = "TOKEN", env = "HF_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// List the models this build knows, those on disk first.
    #[command(after_help = "Examples:\n  ai-gateway model list\n  ai-gateway model list mistral")]
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// Only models whose name, task, family, licence or description holds this.
        filter: Option<String>,
    },
}

#[cfg(feature = "local")]
#[derive(Subcommand)]
enum FinetuneCommand {
    /// Make a fine-tune of a folder with adapter_config.json and adapter_model.safetensors, as PEFT writes them.
    #[command(
        after_help = "Example:\n  ai-gateway finetune create @cf/huggingfacetb/smollm2-135m-instruct pirate ./pirate-adapter"
    )]
    Create {
        /// Model the adapter was trained on.
        model: String,
        /// What requests call it (`lora`); no other of the account has it.
        name: String,
        /// The folder with both files.
        folder: PathBuf,
        #[arg(long, default_value = "")]
        description: String,
        /// Let every account use it.
        #[arg(long)]
        public: bool,
        #[command(flatten)]
        at: RunningGateway,
    },
    /// List the account's fine-tunes.
    #[command(after_help = "Example:\n  ai-gateway finetune list --account default")]
    List {
        #[command(flatten)]
        at: RunningGateway,
    },
    /// Remove a fine-tune. Requests that have begun with it end with it.
    #[command(after_help = "Example:\n  ai-gateway finetune delete pirate")]
    Delete {
        /// Id or name.
        name: String,
        #[command(flatten)]
        at: RunningGateway,
    },
    /// Put an adapter into its base model for good: a new model folder, for who serves that one only. Asks no gateway.
    #[command(
        after_help = "Example:\n  ai-gateway finetune merge ./gemma-2b-it ./pirate-adapter ./gemma-2b-pirate"
    )]
    Merge {
        /// The base: a folder with config.json and safetensors.
        base: PathBuf,
        /// The folder with adapter_config.json and adapter_model.safetensors.
        folder: PathBuf,
        /// The folder to write, which must not be there.
        out: PathBuf,
    },
}

#[cfg(feature = "local")]
#[derive(clap::Args)]
struct RunningGateway {
    #[command(flatten)]
    config: ConfigFile,
    #[arg(long, default_value = "default")]
    account: String,
    /// A token with workers_ai_edit (for lists workers_ai_read), when tokens exist.
    #[arg(long, env = "AI_GATEWAY_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

#[derive(Subcommand)]
enum LogsCommand {
    /// Follow the log of a running gateway, newest last.
    #[command(after_help = "Example:\n  ai-gateway logs tail --account default --gateway default")]
    Tail {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long, default_value = "default")]
        account: String,
        #[arg(long, default_value = "default")]
        gateway: String,
        /// Show this many past rows first.
        #[arg(long, short = 'n', default_value_t = 10)]
        lines: usize,
        /// Stop after the past rows.
        #[arg(long)]
        no_follow: bool,
        /// A token that may read logs, when tokens exist.
        #[arg(long, env = "AI_GATEWAY_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
}

pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve { config, upgrade } => serve(ServeOptions {
            config: config.config,
            upgrade,
        }),
        Command::CheckConfig { config } => {
            let loaded = config.load()?;
            if let Some(tls) = &loaded.server.tls {
                crate::door::listen::check_tls(tls)?;
            }
            let gateways = loaded.gateways().count();
            println!(
                "the configuration is good: {gateways} gateways, {} providers configured",
                loaded.providers.len()
            );
            Ok(())
        }
        Command::PrintConfig { config } => {
            print!("{}", config.load()?.print_config());
            Ok(())
        }
        Command::Token { command } => token(command),
        #[cfg(feature = "local")]
        Command::Model { command } => model(command),
        #[cfg(feature = "local")]
        Command::Finetune { command } => finetune(command),
        Command::Logs { command } => logs(command),
    }
}

fn runtime(threads: Option<usize>) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .thread_name("gateway")
        .build()
        .context("starting the runtime")
}

fn serve(options: ServeOptions) -> anyhow::Result<()> {
    let threads = Config::load(options.config.as_deref())?.server.threads;
    runtime(threads)?.block_on(app::serve(options))
}

fn token(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create {
            config,
            label,
            account,
            gateway,
            permissions,
        } => {
            let permissions = match permissions {
                Some(list) => Permissions::parse(&list).map_err(|word| {
                    anyhow::anyhow!(
                        "`{word}` is not a permission; see `ai-gateway token create --help`"
                    )
                })?,
                None => Permissions::all(),
            };
            let state = State::open(&config.load()?.data.dir)?;
            let (token, text) = state.create_token(&NewToken {
                label,
                account,
                gateway,
                permissions,
            })?;
            println!("{}", text.expose());
            eprintln!(
                "token {} made; it is shown this once. A running gateway knows it within a second.",
                token.id
            );
            eprintln!("send it as `cf-aig-authorization: Bearer <token>`");
        }
        TokenCommand::List { config } => {
            let tokens = State::open(&config.load()?.data.dir)?.tokens()?;
            if tokens.is_empty() {
                println!("no tokens; make one with `ai-gateway token create --label NAME`");
            }
            for token in tokens {
                let gateway = token.gateway.as_deref().unwrap_or("*");
                println!(
                    "{}  {}/{}  {}  {}",
                    token.id, token.account, gateway, token.label, token.permissions
                );
            }
        }
        TokenCommand::Revoke { config, id } => {
            let was_there = State::open(&config.load()?.data.dir)?.revoke_token(&id)?;
            anyhow::ensure!(
                was_there,
                "no token `{id}`; `ai-gateway token list` shows them"
            );
            println!("token {id} is revoked");
        }
    }
    Ok(())
}

#[cfg(feature = "local")]
fn model(command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::Pull {
            config,
            model,
            token,
        } => {
            let config = config.load()?;
            let pull = crate::models::pull(&config, model.as_deref(), token.as_deref());
            runtime(Some(1))?.block_on(pull)
        }
        ModelCommand::List { config, filter } => {
            crate::models::list(&config.load()?, filter.as_deref())
        }
    }
}

#[cfg(feature = "local")]
fn finetune(command: FinetuneCommand) -> anyhow::Result<()> {
    use crate::finetunes::command::{self, Api, Folder};
    let api = |at: RunningGateway| Api::new(&at.config.load()?, &at.account, at.token);
    let runtime = runtime(Some(1))?;
    match command {
        FinetuneCommand::Create {
            model,
            name,
            folder,
            description,
            public,
            at,
        } => {
            let folder = Folder::find(&folder)?;
            let new = serde_json::json!({
                "model": model, "name": name, "description": description, "public": public,
            });
            runtime.block_on(api(at)?.create(&new, &folder))
        }
        FinetuneCommand::List { at } => runtime.block_on(api(at)?.list()),
        FinetuneCommand::Delete { name, at } => runtime.block_on(api(at)?.delete(&name)),
        FinetuneCommand::Merge { base, folder, out } => {
            command::merge(&base, &Folder::find(&folder)?, &out)
        }
    }
}

fn logs(command: LogsCommand) -> anyhow::Result<()> {
    let LogsCommand::Tail {
        config,
        account,
        gateway,
        lines,
        no_follow,
        token,
    } = command;
    let config = config.load()?;
    runtime(Some(1))?.block_on(crate::tail::tail(
        &config,
        &account,
        &gateway,
        lines,
        !no_follow,
        token.as_deref(),
    ))
}

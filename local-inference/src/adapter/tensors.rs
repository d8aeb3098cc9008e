//! `adapter_model.safetensors`: checked against its configuration and the base, then taken apart by module.

use super::config::AdapterConfig;
use super::target::{Module, Targets};
use super::{AdapterError, AdapterFiles, AdapterLimits, AdapterSummary};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;

/// What may stand before the layers of a text model, in PEFT's names. A picture's encoder has layers too.
const WRAPPERS: [&str; 4] = ["base_model", "model", "transformer", "language_model"];

/// One module's two matrices, unscaled.
pub(crate) struct Pair<'a> {
    pub layer: usize,
    pub module: &'a Module,
    pub rank: usize,
    pub scale: f32,
    /// `[rank][k]`
    pub a: Vec<f32>,
    /// `[columns][rank]`
    pub b: Vec<f32>,
}

/// The tensors of a checked adapter.
pub(crate) struct Tensors<'a> {
    config: AdapterConfig,
    /// By layer and number of the module in `targets`.
    modules: BTreeMap<(usize, usize), Found<TensorView<'a>>>,
    targets: &'a Targets,
}

/// One adapted module.
struct Found<T> {
    /// As the configuration would name it.
    name: String,
    a: T,
    b: T,
}

/// Which of a module's two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    A,
    B,
}

/// A tensor's name, read.
struct Named<'a> {
    name: &'a str,
    layer: usize,
    module: usize,
    half: Half,
}

impl<'a> Tensors<'a> {
    /// Looks at everything but the numbers.
    pub(crate) fn open(
        files: &'a AdapterFiles,
        targets: &'a Targets,
    ) -> Result<Tensors<'a>, AdapterError> {
        let config = AdapterConfig::parse(&files.config)?;
        // Checks every offset against the others and against the file's end.
        let file = SafeTensors::deserialize(&files.weights)
            .map_err(|error| AdapterError::Weights(format!("is no safetensors file: {error}")))?;
        let mut halves: BTreeMap<(usize, usize), Found<Option<TensorView<'a>>>> = BTreeMap::new();
        for (tensor, view) in file.iter() {
            let named = read_name(tensor, targets)?;
            if !config.is_target(named.name) {
                return fault(format!(
                    "tensor `{tensor}` is of a module that `target_modules` of adapter_config.json does not name"
                ));
            }
            check_shape(tensor, &view, &config, &named, targets)?;
            let found = halves
                .entry((named.layer, named.module))
                .or_insert_with(|| Found {
                    name: named.name.to_owned(),
                    a: None,
                    b: None,
                });
            let half = match named.half {
                Half::A => &mut found.a,
                Half::B => &mut found.b,
            };
            if half.replace(view).is_some() {
                return fault(format!(
                    "tensor `{tensor}` is there twice, by two spellings"
                ));
            }
        }
        if halves.is_empty() {
            return fault("holds no tensor".to_owned());
        }
        let mut modules = BTreeMap::new();
        for (key, Found { name, a, b }) in halves {
            let (Some(a), Some(b)) = (a, b) else {
                return fault(format!("`{name}` has only one of lora_A and lora_B"));
            };
            modules.insert(key, Found { name, a, b });
        }
        Ok(Tensors {
            config,
            modules,
            targets,
        })
    }

    /// What it is, once every number was looked at and `limits` are kept.
    pub(crate) fn check(&self, limits: AdapterLimits) -> Result<AdapterSummary, AdapterError> {
        let rank = self.config.highest_rank();
        if rank > limits.max_rank {
            return Err(AdapterError::Config(format!(
                "rank {rank} is above the limit of {}: train with a smaller `r`",
                limits.max_rank
            )));
        }
        let mut targets: Vec<String> = Vec::new();
        let mut parameters = 0;
        for ((_, module), Found { name, a, b }) in &self.modules {
            for view in [a, b] {
                parameters += view.shape().iter().product::<usize>() as u64;
                if !floats(view).iter().all(|value| value.is_finite()) {
                    return fault(format!(
                        "`{name}` holds values that are not finite: its training diverged"
                    ));
                }
            }
            let name = self.targets.modules[*module].name().to_owned();
            if !targets.contains(&name) {
                targets.push(name);
            }
        }
        targets.sort();
        Ok(AdapterSummary {
            rank,
            targets,
            parameters,
        })
    }

    /// Module by module, in order of layers.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = Pair<'a>> {
        let (config, targets) = (&self.config, self.targets);
        self.modules
            .iter()
            .map(move |((layer, module), Found { name, a, b })| Pair {
                layer: *layer,
                module: &targets.modules[*module],
                rank: config.rank_of(name),
                scale: config.scale_of(name),
                a: floats(a),
                b: floats(b),
            })
    }
}

fn fault<T>(text: String) -> Result<T, AdapterError> {
    Err(AdapterError::Weights(text))
}

/// Reads `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight` and its shorter spellings.
fn read_name<'a>(name: &'a str, targets: &Targets) -> Result<Named<'a>, AdapterError> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let stem = stem.strip_suffix(".default").unwrap_or(stem);
    let (module, half) = match (stem.strip_suffix(".lora_A"), stem.strip_suffix(".lora_B")) {
        (Some(module), _) => (module, Half::A),
        (_, Some(module)) => (module, Half::B),
        _ => {
            return fault(format!(
                "tensor `{name}` is neither lora_A nor lora_B of a module"
            ));
        }
    };
    let unknown = || {
        AdapterError::Weights(format!(
            "tensor `{name}` belongs to no module of the base that can be adapted: {} of layers 0 to {} can",
            targets.names(),
            targets.layers - 1
        ))
    };
    let begin = module.find(targets.prefix).ok_or_else(unknown)?;
    let mut outer = module[..begin].split_terminator('.');
    if !outer.all(|wrapper| WRAPPERS.contains(&wrapper)) {
        return Err(unknown());
    }
    let (number, path) = module[begin + targets.prefix.len()..]
        .split_once('.')
        .ok_or_else(unknown)?;
    let layer: usize = number.parse().map_err(|_| unknown())?;
    let mut modules = targets.modules.iter();
    let index = modules
        .position(|known| known.path == path)
        .filter(|_| layer < targets.layers)
        .ok_or_else(unknown)?;
    Ok(Named {
        name: module.strip_prefix("base_model.model.").unwrap_or(module),
        layer,
        module: index,
        half,
    })
}

fn check_shape(
    name: &str,
    view: &TensorView<'_>,
    config: &AdapterConfig,
    named: &Named<'_>,
    targets: &Targets,
) -> Result<(), AdapterError> {
    if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return fault(format!(
            "tensor `{name}` has type {:?}: save it as F32, F16 or BF16",
            view.dtype()
        ));
    }
    let rank = config.rank_of(named.name);
    let module = &targets.modules[named.module];
    let expected = match named.half {
        Half::A => [rank, module.k],
        Half::B => [module.columns.len(), rank],
    };
    match view.shape() == expected {
        true => Ok(()),
        false => fault(format!(
            "tensor `{name}` has shape {:?}, rank {rank} on this base takes {expected:?}: is it of another base or rank?",
            view.shape()
        )),
    }
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    let pairs = || view.data().as_chunks::<2>().0.iter();
    match view.dtype() {
        Dtype::F16 => pairs()
            .map(|two| f16::from_le_bytes(*two).to_f32())
            .collect(),
        Dtype::BF16 => pairs()
            .map(|two| bf16::from_le_bytes(*two).to_f32())
            .collect(),
        _ => {
            let fours = view.data().as_chunks::<4>().0.iter();
            fours.map(|four| f32::from_le_bytes(*four)).collect()
        }
    }
}

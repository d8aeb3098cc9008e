//! Room for a model within the memory budget.

use super::slot::ModelSlot;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::stats::Counters;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

const MIB: u64 = 1 << 20;

/// Unloads idle models, the one unused for longest first, until `slot`'s fits; books its memory by estimate. Gives the threads whose end
/// the load has to wait for.
///
/// # Errors
/// `Load` when the model is larger than the budget by itself, `Busy` when those at work leave no room.
pub(super) fn make_room(
    slot: &Arc<ModelSlot>,
    models: &[Arc<ModelSlot>],
    config: &EngineConfig,
    has_adapters: bool,
) -> Result<Vec<JoinHandle<()>>, EngineError> {
    let (also, adapter_bytes) = match has_adapters {
        true => (
            " and its adapters (`adapter_cache_mib`)",
            config.adapter_cache_bytes(),
        ),
        false => ("", 0),
    };
    let needed = slot
        .entry
        .weight_bytes(&config.model_dir)
        .saturating_add(config.kv_cache_bytes() as u64)
        .saturating_add(adapter_bytes as u64);
    let budget = (config.memory_budget_mib as u64).saturating_mul(MIB);
    if budget > 0 {
        if needed > budget {
            return Err(EngineError::Load(format!(
                "needs up to {} MiB with its attention memory (`kv_cache_mib`){also}, `memory_budget_mib` is {}",
                needed.div_ceil(MIB),
                config.memory_budget_mib
            )));
        }
        while needed > budget.saturating_sub(in_use(slot, models)) {
            let others = models.iter().filter(|other| !Arc::ptr_eq(other, slot));
            let oldest = others
                .filter_map(|other| other.idle_since().map(|since| (since, other)))
                .min_by_key(|(since, _)| *since);
            let Some((_, idle)) = oldest else {
                tracing::warn!(
                    model = %slot.entry.id,
                    needed_mib = needed.div_ceil(MIB),
                    in_use_mib = in_use(slot, models).div_ceil(MIB),
                    budget_mib = config.memory_budget_mib,
                    "no room for a model beside those at work"
                );
                return Err(EngineError::Busy);
            };
            idle.unload_if_idle();
        }
    }
    Counters::set(&slot.counters.memory_bytes, needed as usize);
    Ok(models.iter().filter_map(|slot| slot.leaving()).collect())
}

fn in_use(slot: &Arc<ModelSlot>, models: &[Arc<ModelSlot>]) -> u64 {
    let others = models.iter().filter(|other| !Arc::ptr_eq(other, slot));
    others
        .map(|other| other.counters.memory_bytes.load(Ordering::Relaxed))
        .sum()
}

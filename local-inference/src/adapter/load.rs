//! A checked adapter in the form its base computes with: one pair of matrices for each part of each projection it touches.

use super::target::{Place, Targets};
use super::tensors::{Pair, Tensors};
use super::{AdapterError, AdapterFiles, AdapterLoader, LoadedAdapter};
use crate::backend::{Backend, MAX_PARTS, PartAdapters};
use std::ops::Range;

/// An adapter's matrices, by layer and [`Place`].
pub(crate) struct DecoderAdapter<B: Backend> {
    layers: Vec<[PartAdapters<B>; Place::ALL.len()]>,
}

impl<B: Backend> DecoderAdapter<B> {
    pub(crate) fn parts(&self, layer: usize, place: Place) -> &PartAdapters<B> {
        &self.layers[layer][place as usize]
    }
}

/// A matrix of the base beside which one of an adapter's stands.
pub(crate) struct BasePart<B: Backend> {
    /// Its outputs within the projection's.
    pub columns: Range<usize>,
    pub form: B::AdapterForm,
}

/// What is known of a base, away from its thread.
pub(crate) struct Loader<B: Backend> {
    pub targets: Targets,
    /// Parts of a layer's projections, by [`Place`].
    pub parts: [Vec<BasePart<B>>; Place::ALL.len()],
}

impl<B: Backend> AdapterLoader for Loader<B> {
    fn load(&self, files: &AdapterFiles) -> Result<LoadedAdapter, AdapterError> {
        let tensors = Tensors::open(files, &self.targets)?;
        let empty = || std::array::from_fn(|_| PartAdapters::<B>::default());
        let mut layers: Vec<[PartAdapters<B>; Place::ALL.len()]> =
            (0..self.targets.layers).map(|_| empty()).collect();
        let mut bytes = 0;
        let mut pairs = tensors.pairs().peekable();
        while let Some(first) = pairs.next() {
            let (layer, place) = (first.layer, first.module.place);
            let mut together = vec![first];
            while let Some(next) =
                pairs.next_if(|next| next.layer == layer && next.module.place == place)
            {
                together.push(next);
            }
            for (index, part) in self.parts[place as usize].iter().enumerate() {
                let Some(low_rank) = self.beside(&part.columns, &together) else {
                    continue;
                };
                let packed = B::load_adapter(&part.form, &low_rank)
                    .map_err(|error| AdapterError::Weights(error.to_string()))?;
                bytes += B::adapter_bytes(&packed);
                layers[layer][place as usize][index] = Some(packed);
            }
        }
        Ok(LoadedAdapter {
            bytes,
            matrices: Box::new(DecoderAdapter::<B> { layers }),
        })
    }
}

/// `B A`, with the scale in B.
pub(crate) struct LowRank {
    pub rank: usize,
    pub k: usize,
    pub columns: usize,
    /// `[rank][k]`
    pub a: Vec<f32>,
    /// `[columns][rank]`
    pub b: Vec<f32>,
}

impl<B: Backend> Loader<B> {
    /// What the modules add to the outputs `part` of their projection. A base may hold in one matrix what the adapter has
    /// apart: the modules' ranks are then laid side by side, each with zeros where its outputs are not.
    fn beside(&self, part: &Range<usize>, modules: &[Pair<'_>]) -> Option<LowRank> {
        const { assert!(MAX_PARTS >= 3) };
        let touches = |pair: &&Pair<'_>| {
            let columns = &pair.module.columns;
            columns.start < part.end && part.start < columns.end
        };
        let pairs: Vec<&Pair<'_>> = modules.iter().filter(touches).collect();
        let rank: usize = pairs.iter().map(|pair| pair.rank).sum();
        let k = pairs.first()?.module.k;
        let mut low_rank = LowRank {
            rank,
            k,
            columns: part.len(),
            a: Vec::with_capacity(rank * k),
            b: vec![0.0; part.len() * rank],
        };
        let mut first_rank = 0;
        for pair in pairs {
            low_rank.a.extend_from_slice(&pair.a);
            let columns = &pair.module.columns;
            for column in columns.start.max(part.start)..columns.end.min(part.end) {
                let source = self.row_of(pair, column - columns.start);
                let from = &pair.b[source * pair.rank..][..pair.rank];
                let to = &mut low_rank.b[(column - part.start) * rank + first_rank..][..pair.rank];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = pair.scale * from;
                }
            }
            first_rank += pair.rank;
        }
        Some(low_rank)
    }

    /// Transformers' row of what is output `column` of the module in the base.
    fn row_of(&self, pair: &Pair<'_>, column: usize) -> usize {
        let length = self.targets.head_dim;
        match pair.module.is_paired {
            true => {
                let (head, at) = (column / length, column % length);
                head * length + at % 2 * (length / 2) + at / 2
            }
            false => column,
        }
    }
}

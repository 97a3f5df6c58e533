//! Passes recorded as CUDA graphs. A device takes a pass's kernels one after another faster than a
//! thread can start them, so what a short pass takes is their starting; a graph of them is started at
//! once. It is of one shape, so there is one for each, recorded when the shape is met first.
//!
//! [CUDA C++ Programming Guide, CUDA Graphs](https://docs.nvidia.com/cuda/cuda-c-programming-guide/).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::{DType, Tensor};

use super::shapes::{SHAPES_MAX, Shape};
use super::{Batch, Classifier};
use crate::error::ModelError;

/// One model's recordings, by shape and whether there is padding in it; none of what could not be
/// recorded.
#[derive(Default)]
pub(super) struct Recordings(Mutex<HashMap<(Shape, bool), Option<Recording>>>);

struct Recording {
    graph: Graph,
    /// What the graph reads: `[4, batch, tokens]`, see [`Batch`].
    input: Tensor,
    /// What the graph reads, too.
    _constants: Vec<Tensor>,
    /// What the graph writes: `[batch, labels]`.
    logits: Tensor,
}

struct Graph(CudaGraph);

// SAFETY: a graph may be launched by any thread, but by one at a time ("Graph object thread safety" in the
// driver's manual); each is behind the mutex of its recordings.
#[expect(unsafe_code, reason = "cudarc leaves it to its users, for the graph alone is not enough")]
unsafe impl Send for Graph {}

impl std::fmt::Debug for Recordings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(known.keys()).finish()
    }
}

impl Recordings {
    /// Logits of `input`, `[4, batch, tokens]`; `None` where that is not recorded.
    pub(super) fn logits(
        &self,
        classifier: &dyn Classifier,
        input: &Tensor,
        padded: bool,
    ) -> Result<Option<Vec<Vec<f32>>>, ModelError> {
        let (_, batch, tokens) = input.dims3()?;
        let key = ((batch, tokens), padded);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(&key) {
            if known.len() >= SHAPES_MAX {
                return Ok(None);
            }
            let recording = Recording::new(classifier, input, padded)?;
            known.insert(key, recording);
        }
        let recording = known.get(&key).and_then(Option::as_ref);
        recording.map(|recording| recording.play(input)).transpose()
    }
}

impl Recording {
    /// `None` where the device cannot record it.
    fn new(
        classifier: &dyn Classifier,
        input: &Tensor,
        padded: bool,
    ) -> Result<Option<Self>, ModelError> {
        let (device, input) = (input.device().as_cuda_device()?.clone(), input.copy()?);
        let constants = classifier.constants(input.dim(2)?, input.device())?;
        let stream = device.cuda_stream();
        // Arguments in device memory are made once and kept, for the graph goes on reading them.
        let _kept = device.enable_cuda_graph_htod_cache();
        // Of what is done once, what may not be recorded is done here.
        let first = classifier.logits(&Batch::new(&input, &constants, padded)?)?;
        let logits = Tensor::zeros(first.shape(), DType::F32, input.device())?;
        logits.slice_set(&first, 0, 0)?;
        drop(first);
        stream.synchronize().w()?;
        // Other threads may do meanwhile what a recording thread may not.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        if stream.begin_capture(mode).is_err() {
            return Ok(None);
        }
        // All that is allocated in it is freed in it.
        let written = Batch::new(&input, &constants, padded)
            .and_then(|batch| classifier.logits(&batch))
            .and_then(|own| Ok(logits.slice_set(&own, 0, 0)?));
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        let (Ok(()), Ok(Some(graph))) = (written, graph) else { return Ok(None) };
        Ok(Some(Self { graph: Graph(graph), input, _constants: constants, logits }))
    }

    fn play(&self, input: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
        self.input.slice_set(input, 0, 0)?;
        self.graph.0.launch().w()?;
        // Waits for the end, so passes of different threads do not overlap.
        Ok(self.logits.to_vec2::<f32>()?)
    }
}

//! One forward pass, and what is done where its device has no memory left for it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postsort_models::{Encoding, ModelError};

use super::job::{BatchModel, Relief};

/// States of a batch's windows, in their order; none of those for which the device has no memory
/// even alone.
///
/// # Errors
/// The engine failed or panicked; the whole batch has no answer.
pub(super) fn compute<M: BatchModel>(
    model: &M,
    windows: &[&Encoding],
) -> Result<Vec<Option<Vec<f32>>>, String> {
    catch_unwind(AssertUnwindSafe(|| encode(model, windows)))
        .unwrap_or_else(|_| Err("the engine panicked".to_owned()))
}

/// Idle models make room first, then the batch is halved, as often as it takes.
fn encode<M: BatchModel>(
    model: &M,
    windows: &[&Encoding],
) -> Result<Vec<Option<Vec<f32>>>, String> {
    loop {
        match model.encode(windows) {
            Ok(states) if states.len() == windows.len() => {
                return Ok(states.into_iter().map(Some).collect());
            }
            Ok(_) => return Err("the engine lost a sequence".to_owned()),
            Err(ModelError::OutOfMemory { .. }) if model.make_room() => {
                model.ran_out_of_memory(Relief::Evicted);
            }
            Err(ModelError::OutOfMemory { .. }) if windows.len() > 1 => {
                model.ran_out_of_memory(Relief::Split);
                let (first, second) = windows.split_at(windows.len() / 2);
                let mut states = encode(model, first)?;
                states.extend(encode(model, second)?);
                return Ok(states);
            }
            Err(ModelError::OutOfMemory { .. }) => {
                model.ran_out_of_memory(Relief::FellBack);
                return Ok(vec![None; windows.len()]);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;

//! A real model on a device with room for so many tokens.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use postsort_models::{Encoding, LoadOptions, LongText, Model, ModelError, ModelFolder};

use super::super::{BatchModel, CostModel, DropReason, Relief};
use super::compute;

#[derive(Clone, Debug)]
struct Limited(Arc<Device>);

#[derive(Debug)]
struct Device {
    model: Model,
    cost: CostModel,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Most tokens of a batch.
    room_tokens: usize,
    /// Room that each idle model leaves when it is dropped; the last is dropped first.
    idle_tokens: Vec<usize>,
    /// Sequences of each batch that was tried.
    tried: Vec<usize>,
    told: Vec<Relief>,
    breaks: bool,
}

impl BatchModel for Limited {
    fn identity(&self) -> usize {
        0
    }
    fn owner(&self) -> usize {
        0
    }
    fn cost(&self) -> &CostModel {
        &self.0.cost
    }
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut state = self.0.state.lock();
        state.tried.push(batch.len());
        if state.breaks {
            return Err(ModelError::Engine { reason: "broken".to_owned() });
        }
        if batch.iter().map(|window| window.ids.len()).sum::<usize>() > state.room_tokens {
            return Err(ModelError::OutOfMemory { reason: "simulated".to_owned() });
        }
        drop(state);
        self.0.model.engine().encode(batch)
    }
    fn make_room(&self) -> bool {
        let mut state = self.0.state.lock();
        let freed = state.idle_tokens.pop();
        state.room_tokens += freed.unwrap_or(0);
        freed.is_some()
    }
    fn ran_out_of_memory(&self, relief: Relief) {
        self.0.state.lock().told.push(relief);
    }
    fn queued(&self, _: usize) {}
    fn dequeued(&self, _: usize) {}
    fn batched(&self, _: usize, _: usize) {}
    fn dropped(&self, _: DropReason) {}
}

/// The fixture's model, and mails of 12 tokens.
fn limited(state: State, mails: usize) -> (Limited, Vec<Encoding>) {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tests/fixtures/bert");
    let folder = ModelFolder::open(Path::new(fixture)).expect("opens");
    let model = Model::load(&folder, &LoadOptions::default()).expect("loads");
    let windows: Vec<Encoding> = (0..mails)
        .map(|number| {
            let text = format!("{number} mails of many words that are read one after another");
            let encoded = model.tokenizer().encode(&text, 0, LongText::Truncate).expect("encodes");
            let mut window = encoded.windows.into_iter().next().expect("a window");
            window.ids.truncate(12);
            window.type_ids.truncate(12);
            window
        })
        .collect();
    assert!(windows.iter().all(|window| window.ids.len() == 12));
    let (cost, state) = (CostModel::default(), Mutex::new(state));
    (Limited(Arc::new(Device { model, cost, state })), windows)
}

/// What was tried and told, and the states, which must be those that the engine has for each alone.
fn run(model: &Limited, windows: &[Encoding]) -> (Vec<usize>, Vec<Relief>, Vec<bool>) {
    let batch: Vec<&Encoding> = windows.iter().collect();
    let states = compute(model, &batch).expect("computes");
    assert_eq!(states.len(), windows.len());
    for (window, states) in windows.iter().zip(&states) {
        let alone = model.0.model.engine().encode(&[window]).expect("computes").remove(0);
        assert!(states.as_ref().is_none_or(|states| *states == alone), "bit for bit");
    }
    let state = std::mem::take(&mut *model.0.state.lock());
    (state.tried, state.told, states.iter().map(Option::is_some).collect())
}

#[test]
fn a_batch_that_fits_is_one_pass() {
    let (model, windows) = limited(State { room_tokens: 96, ..State::default() }, 8);
    assert_eq!(run(&model, &windows), (vec![8], vec![], vec![true; 8]));
}

#[test]
fn idle_models_make_room_one_by_one_and_no_more_than_it_takes() {
    let idle_tokens = vec![1000, 40, 40];
    let (model, windows) = limited(State { room_tokens: 20, idle_tokens, ..State::default() }, 8);
    let kept = Arc::clone(&model.0);
    let batch: Vec<&Encoding> = windows.iter().collect();
    assert!(compute(&model, &batch).expect("computes").iter().all(Option::is_some));
    let state = kept.state.lock();
    assert_eq!((&state.tried[..], &state.told[..]), (&[8; 3][..], &[Relief::Evicted; 2][..]));
    assert_eq!(state.idle_tokens, [1000], "the third one stays");
}

#[test]
fn a_batch_without_room_is_halved_and_no_answer_changes() {
    let (model, windows) = limited(State { room_tokens: 30, ..State::default() }, 7);
    let (tried, told, done) = run(&model, &windows);
    assert_eq!(tried, [7, 3, 1, 2, 4, 2, 2]);
    assert_eq!(told, [Relief::Split; 3]);
    assert_eq!(done, [true; 7]);
}

#[test]
fn room_is_made_before_anything_is_split() {
    let idle_tokens = vec![15];
    let (model, windows) = limited(State { room_tokens: 35, idle_tokens, ..State::default() }, 8);
    let (tried, told, done) = run(&model, &windows);
    assert_eq!(tried, [8, 8, 4, 4]);
    assert_eq!(told, [Relief::Evicted, Relief::Split]);
    assert_eq!(done, [true; 8]);
}

#[test]
fn what_finds_no_room_alone_is_left_to_the_cpu_and_the_rest_is_answered() {
    let (model, mut windows) = limited(State { room_tokens: 12, ..State::default() }, 4);
    let longer = windows[2].ids[1];
    windows[2].ids.insert(1, longer);
    windows[2].type_ids.push(0);
    let (tried, told, done) = run(&model, &windows);
    assert_eq!(tried, [4, 2, 1, 1, 2, 1, 1]);
    assert_eq!(told, [Relief::Split, Relief::Split, Relief::Split, Relief::FellBack]);
    assert_eq!(done, [true, true, false, true]);
}

#[test]
fn another_error_is_no_reason_to_try_again() {
    let (model, windows) = limited(State { breaks: true, ..State::default() }, 4);
    let batch: Vec<&Encoding> = windows.iter().collect();
    let error = compute(&model, &batch).expect_err("broken");
    assert!(error.contains("broken"), "{error}");
    assert_eq!(model.0.state.lock().tried, [4]);
}

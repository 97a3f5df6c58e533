//! Nothing here: the benches are `request.rs`.

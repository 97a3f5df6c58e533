//! The `postsort` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use postsort_server::cli::Cli;

/// Unloading a model must give its memory back to the system, and threads must not contend for the
/// heap; the system's allocator is worse at both.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postsort: {error}");
            ExitCode::FAILURE
        }
    }
}

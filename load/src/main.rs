//! The `postsort-load` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use postsort_load::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postsort-load: {error}");
            ExitCode::FAILURE
        }
    }
}

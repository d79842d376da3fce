//! `pgctl`, the operator's hand on a pgvigil monitor: it asks and shows, the monitor decides.
//!
//! Data goes to stdout and everything else to stderr, an error is one line, and the exit code
//! tells scripts what happened: see [`failure`].

mod cli;
mod commands;
mod failure;
mod monitor;
mod output;
mod render;
mod usage;
mod values;

use std::process::ExitCode;

use failure::Failure;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let bug = Failure::unexpected(format!("this is a bug in pgctl: {panic}"));
        bug.report(false);
        std::process::exit(bug.kind.exit_code().into());
    }));
    let args: Vec<_> = std::env::args_os().collect();
    let json = usage::wants_json(&args);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            failure.kind.exit_code().into()
        }
    }
}

fn run(args: &[std::ffi::OsString]) -> Result<(), Failure> {
    let Some(cli) = usage::parse(args)? else { return Ok(()) };
    let session = cli.global.session()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::unexpected(format!("cannot start: {error}")))?;
    let done = runtime.block_on(cli.verb.run(&session));
    // A name lookup that hangs must not keep us here.
    runtime.shutdown_background();
    done
}

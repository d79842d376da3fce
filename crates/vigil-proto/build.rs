//! Generates the gRPC code without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let fds = protox::compile(["pgvigil.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        // Carries a password; `redacted.rs` says what may be shown of it.
        .skip_debug(["pgvigil.v1.Order"])
        .compile_fds(fds)?;
    Ok(())
}

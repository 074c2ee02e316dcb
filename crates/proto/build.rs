//! Generates clients and servers from `proto/` without a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs: a cached build script may have been compiled in another checkout.
    let root = std::path::PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = [
        "berth/metadata/v1/metadata.proto",
        "berth/instance_manager/v1/instance_manager.proto",
        "berth/blob_store/v1/blob_store.proto",
        "berth/events/v1/events.proto",
    ];
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

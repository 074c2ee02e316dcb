//! Generates clients and servers from `proto/` without a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs: a cached build script may have been compiled in another checkout.
    let root = std::path::PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    // Metadata records what blob-store speaks of, and services have tasks. Whoever refers to another package comes before
    // that package, whose file is written again, then whole.
    let others = [
        "berth/metadata/v1/metadata.proto",
        "berth/metadata/v1/limits.proto",
        "berth/metadata/v1/contents.proto",
        "berth/metadata/v1/tasks.proto",
        "berth/instance_manager/v1/instance_manager.proto",
        "berth/instance_manager/v1/audit.proto",
        "berth/instance_manager/v1/instances.proto",
        "berth/instance_manager/v1/principals.proto",
        "berth/instance_manager/v1/identity.proto",
        "berth/instance_manager/v1/roles.proto",
        "berth/instance_manager/v1/sessions.proto",
        "berth/instance_manager/v1/tasks.proto",
        "berth/events/v1/events.proto",
    ];
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".berth.blob_store.v1", "crate::blob_store")
        .extern_path(".berth.tasks.v1", "crate::tasks")
        .compile_fds(protox::compile(others, [&root])?)?;
    for referred in ["berth/blob_store/v1/blob_store.proto", "berth/tasks/v1/tasks.proto"] {
        tonic_prost_build::configure().bytes(".").compile_fds(protox::compile([referred], [&root])?)?;
    }
    Ok(())
}

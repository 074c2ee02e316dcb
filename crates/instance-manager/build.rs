//! Rebuilds when a migration is added, which the compiler alone does not see.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/instance-manager");
}

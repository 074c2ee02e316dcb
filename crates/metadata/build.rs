//! New migrations are embedded anew.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/metadata");
}

//! A new migration must make the program be built again; cargo does not know that folder.

fn main() {
    println!("cargo::rerun-if-changed=../../sql/monitor");
}

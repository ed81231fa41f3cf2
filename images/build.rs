//! Hands the board's linker script to the linker.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let board = match arch.as_str() {
        "aarch64" => "aarch64-virt",
        "riscv64" => "riscv64-virt",
        "x86_64" => "x86_64-q35",
        _ => panic!("no board for {arch}"),
    };
    println!("cargo:rustc-link-arg-bins=-T{root}/{board}/link.ld");
    println!("cargo:rerun-if-changed={board}/link.ld");
}

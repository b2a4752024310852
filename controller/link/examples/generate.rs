//! Writes `src/proto/l7mp.v1.rs` from `proto/l7mp.proto`: `cargo run -p l7mp-link --example generate`. Needs no
//! `protoc`; `tests/generated.rs` fails when the file is stale.

use std::path::Path;

/// Writes the generated code into `out`.
///
/// # Panics
/// When the proto file is wrong, or `out` is no directory.
pub fn generate(out: &Path) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(["l7mp.proto"], [&directory]).expect("the proto file is in order");
    tonic_prost_build::configure()
        .out_dir(out)
        .build_transport(false)
        .bytes(".l7mp.v1.Configuration.document")
        .client_mod_attribute("l7mp.v1", "#[cfg(feature = \"client\")]")
        .server_mod_attribute("l7mp.v1", "#[cfg(feature = \"server\")]")
        .compile_fds(files)
        .expect("the code is written");
}

fn main() {
    generate(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proto"));
}

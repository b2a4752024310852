//! The committed code is what its generator writes.

#[path = "../examples/generate.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod generate;

#[test]
fn the_generated_code_is_fresh() {
    let out = tempfile::tempdir().unwrap();
    generate::generate(out.path());
    let fresh = std::fs::read_to_string(out.path().join("l7mp.v1.rs")).unwrap();
    assert!(
        fresh == include_str!("../src/proto/l7mp.v1.rs"),
        "src/proto/l7mp.v1.rs is stale: cargo run -p l7mp-link --example generate"
    );
}

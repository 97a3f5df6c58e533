//! Files that are cut while their folder is loaded: after they were opened, before they are packed.

use std::path::Path;

use super::*;

#[test]
fn a_file_cut_before_it_is_packed_is_an_error() {
    let mut reasons = Vec::new();
    for name in ["bert", "roberta-f16", "deberta-v3", "modernbert-cls"] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        for entry in std::fs::read_dir(fixture).expect("reads") {
            let entry = entry.expect("reads");
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copies");
        }
        let folder = ModelFolder::open(dir.path()).expect("opens");
        let spec = build::encoder(&folder).expect("opens").expect("is known");
        let level = KernelLevel::best();
        let (pool, encoders) = (ComputePool::new(1).expect("starts"), Encoders::default());
        let packer = Packer { folder: &folder, spec, level, pool: &pool, encoders: &encoders };
        // The digest reads the weights, too, and is remembered.
        drop(packer.pack(Precision::F32, None).expect("packs"));
        let path = dir.path().join("model.safetensors");
        let whole = std::fs::read(&path).expect("reads");
        for left in [0, 9, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..left]).expect("cuts");
            let error = packer.pack(Precision::F32, None).expect_err("is cut");
            let ModelError::Io { path: named, reason } = error else { panic!("{error}") };
            assert_eq!(named, dir.path());
            reasons.push(reason);
            std::fs::write(&path, &whole).expect("mends");
            drop(packer.pack(Precision::F32, None).expect("packs again"));
        }
    }
    for said in ["cannot be read", "when it was opened"] {
        assert!(reasons.iter().any(|reason| reason.contains(said)), "{said}: {reasons:?}");
    }
}

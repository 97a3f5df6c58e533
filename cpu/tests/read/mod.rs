//! Weights whose bytes cannot all be read, and how often each of them is.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::support::{Batch, Shape};
use postsort_cpu::*;

/// A tensor's bytes on a disk that fails after some reads, whichever tensor they are of.
struct Failing {
    bytes: Vec<u8>,
    reads_left: Arc<AtomicUsize>,
    bytes_read: AtomicUsize,
}

impl Source for Failing {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn read(&self, at: usize, out: &mut [u8]) -> io::Result<()> {
        match self.reads_left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(io::Error::other("bad sector")),
            _ => {
                self.bytes_read.fetch_add(out.len(), Ordering::Relaxed);
                self.bytes.read(at, out)
            }
        }
    }

    fn map(self: Arc<Self>) -> Result<Mapped, CpuError> {
        Arc::new(self.bytes.clone()).map()
    }
}

/// All that is packed of a BERT, and the word embeddings, which are not.
fn tensors(spec: &mut EncoderSpec) -> Vec<&mut TensorView> {
    fn linear(own: &mut Linear) -> impl Iterator<Item = &mut TensorView> {
        std::iter::once(&mut own.weight).chain(&mut own.bias)
    }
    fn norm(own: &mut Norm) -> impl Iterator<Item = &mut TensorView> {
        std::iter::once(&mut own.weight).chain(&mut own.bias)
    }
    let mut all = vec![&mut spec.embeddings.word];
    all.extend(norm(&mut spec.embeddings.norm));
    for layer in &mut spec.layers {
        let products = [&mut layer.query, &mut layer.key, &mut layer.value];
        all.extend(products.into_iter().flat_map(linear));
        let products = [&mut layer.attention_output, &mut layer.up, &mut layer.down];
        all.extend(products.into_iter().flat_map(linear));
        all.extend(layer.attention_norm.iter_mut().chain(&mut layer.output_norm).flat_map(norm));
    }
    all.extend(spec.head.layers.iter_mut().flat_map(|layer| linear(&mut layer.dense)));
    all
}

/// The spec of `shape` on a failing disk, and what it lies on.
fn on_disk(shape: &Shape, reads_left: &Arc<AtomicUsize>) -> (EncoderSpec, Vec<Weak<Failing>>) {
    let (mut spec, mut disks) = (shape.spec(7), Vec::new());
    for tensor in tensors(&mut spec) {
        let mut bytes = vec![0; tensor.range.len()];
        tensor.owner.read(tensor.range.start, &mut bytes).expect("is in memory");
        let (reads_left, bytes_read) = (Arc::clone(reads_left), AtomicUsize::new(0));
        let disk = Arc::new(Failing { bytes, reads_left, bytes_read });
        disks.push(Arc::downgrade(&disk));
        tensor.owner = disk;
    }
    (spec, disks)
}

#[test]
fn whichever_read_fails_is_an_error_and_leaves_nothing() {
    // Of 256 rows, so that some tensors take several reads.
    let shape = Shape::bert(128, 4, 256, 1);
    let batch = Batch::random(&shape, &[9, 4], 3);
    let pool = ComputePool::new(1).expect("starts");
    let level = KernelLevel::best();
    let states = |encoder: &Encoder| {
        let mut states = vec![0.0; batch.sequences() * encoder.hidden()];
        encoder.forward(batch.view(), &mut states).expect("runs");
        states
    };
    let whole = shape.spec(7);
    let build = |spec: &EncoderSpec, precision, maxima: Option<&ChannelMaxima>| {
        let encoder = Encoder::new(spec, precision, Arc::clone(&pool), level, maxima)?;
        let head = Head::new(&spec.head, encoder.hidden(), level)?;
        Ok::<_, CpuError>((encoder, head))
    };
    let (exact, _) = build(&whole, Precision::F32, None).expect("builds");
    let maxima = exact.channel_maxima(batch.view()).expect("runs");
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let (expected, _) = build(&whole, precision, Some(&maxima)).expect("builds");
        let reads_left = Arc::new(AtomicUsize::new(usize::MAX));
        let (mut spec, disks) = on_disk(&shape, &reads_left);
        drop(build(&spec, precision, Some(&maxima)).expect("builds"));
        for (at, disk) in disks.iter().map(|disk| disk.upgrade().expect("lives")).enumerate() {
            // The word embeddings, which are first, are used where they lie; all else is read once.
            let expected = if at == 0 { 0 } else { disk.bytes.len() };
            assert_eq!(disk.bytes_read.load(Ordering::Relaxed), expected, "{precision:?} {at}");
        }
        let reads = usize::MAX - reads_left.load(Ordering::Relaxed);
        assert!(reads > 20, "{reads}");
        for read in 0..reads {
            reads_left.store(read, Ordering::Relaxed);
            let error = build(&spec, precision, Some(&maxima)).expect_err("a read fails");
            let CpuError::Read { bytes, source, .. } = &error else { panic!("{error}") };
            assert!(*bytes > 0 && source.to_string() == "bad sector", "{error}");
            for tensor in tensors(&mut spec) {
                assert_eq!(Arc::strong_count(&tensor.owner), 1, "{error}");
            }
        }
        reads_left.store(usize::MAX, Ordering::Relaxed);
        let (mended, _) = build(&spec, precision, Some(&maxima)).expect("builds");
        assert_eq!(states(&mended), states(&expected));
    }
}

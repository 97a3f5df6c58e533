//! A product by itself is that of the numbers, in each precision and on every instruction set.

use postsort_cpu::{CpuError, KernelLevel, Linear, Precision, Product, TensorView};

#[test]
fn products_are_those_of_the_numbers() {
    let (rows, outputs, inputs) = (11, 50, 37);
    let number = |at: usize| (at * 29 % 101) as f32 / 50.0 - 1.0;
    let x: Vec<f32> = (0..rows * inputs).map(number).collect();
    let weight: Vec<f32> = (0..outputs * inputs).map(|at| number(at + 7)).collect();
    let bias: Vec<f32> = (0..outputs).map(number).collect();
    let linear = Linear {
        weight: TensorView::from_f32(&[outputs, inputs], &weight),
        bias: Some(TensorView::from_f32(&[outputs], &bias)),
    };
    for level in KernelLevel::ALL.into_iter().filter(|level| level.is_available()) {
        for (precision, tolerance) in
            [(Precision::F32, 1e-5), (Precision::Bf16, 0.1), (Precision::Int8, 0.1)]
        {
            let mut product = Product::new(&linear, precision, level).expect("packs");
            product.set_rows(&x);
            product.multiply();
            assert_eq!(product.results().count(), rows);
            for (row, results) in product.results().enumerate() {
                for (output, found) in results.iter().enumerate() {
                    let x = &x[row * inputs..][..inputs];
                    let weight = &weight[output * inputs..][..inputs];
                    let wanted = x.iter().zip(weight).fold(bias[output], |sum, (x, w)| sum + x * w);
                    assert!(
                        (found - wanted).abs() <= tolerance,
                        "{level} {precision:?}, row {row}, output {output}: {found}, not {wanted}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_vector_is_no_dense_layer() {
    let linear = Linear { weight: TensorView::from_f32(&[3], &[1.0, 2.0, 3.0]), bias: None };
    let found = Product::new(&linear, Precision::F32, KernelLevel::Scalar).expect_err("refused");
    assert!(matches!(found, CpuError::BadSpec { .. }), "{found}");
}

//! Scratch timing.
use postsort_models::*;
use std::time::Instant;
fn main() {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let t = Instant::now();
    let f = ModelFolder::open(&dir).unwrap();
    println!("open {:?} rev {}", t.elapsed(), f.revision());
    let t = Instant::now();
    let m = Model::load(&f, &LoadOptions { precision: Precision::F32, device: DeviceKind::Cpu }).unwrap();
    println!("load {:?} resident {} est {}", t.elapsed(), m.resident_bytes(), f.resident_bytes_estimate(Precision::F32));
    let mb = 10 << 20;
    let cases: Vec<(&str, String)> = vec![
        ("mail 2KB", "Dear team, the delivery of your order #4711 is delayed. ".repeat(36)),
        ("words", "Dear team, the delivery of your order is delayed. ".repeat(mb / 50)),
        ("x run", "x".repeat(mb)),
        ("base64", "aGVsbG8gd29ybGQ1N2ZkOGE3".repeat(mb / 24)),
        ("cjk", "会议改到星期五下午三点。".repeat(mb / 36)),
        ("blank", " ".repeat(mb)),
        ("newline", "\n".repeat(mb)),
        ("zero", "\u{0}".repeat(mb)),
        ("marks", "\u{301}".repeat(mb / 2)),
        ("punct", "-".repeat(mb)),
    ];
    for (name, text) in &cases {
        for long in [LongText::Truncate, LongText::HeadTail, LongText::Window] {
            let t = Instant::now();
            let e = m.tokenizer().encode(text, 40.min(text.len()), long).unwrap();
            println!("{name} {long:?} {:?} tokens {} truncated {}", t.elapsed(), e.tokens, e.truncated);
        }
    }
    let text = &cases[1].1;
    let t = Instant::now();
    let e = m.tokenizer().encode_pair(text, text).unwrap();
    println!("pair {:?} {}", t.elapsed(), e.tokens);
}

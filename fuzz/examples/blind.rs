//! The targets without a fuzzer: files that are well-formed, damaged at random. Nothing guides it, so it is no substitute; a stable compiler suffices, and it makes ten times as many
//! inputs in the same time.
//!
//! `cargo run --release --example blind -- TARGET INPUTS FOLDER...`

use std::time::Instant;
use std::{env, fs};

/// xorshift64: the same inputs in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    fn place(&mut self, bytes: &[u8], len: usize) -> std::ops::Range<usize> {
        let len = len.min(bytes.len());
        let at = self.below(bytes.len() - len + 1);
        at..at + len
    }

    /// Repeats a part until the whole has up to 64 KiB: what costs more than its length shows then.
    fn grow(&mut self, bytes: &mut Vec<u8>) {
        let len = 4 + self.below(200);
        let part = self.place(bytes, len);
        let copy = bytes[part.clone()].to_vec();
        let times = self.below(65_536 / copy.len().max(1));
        bytes.splice(part.end..part.end, copy.repeat(times));
    }

    fn damage(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const NUMBERS: [u32; 10] = [0, 1, 4, 8, 0x24, 0x30, 0x7f, 0xff, 0xffff, u32::MAX];
        match self.below(8) {
            0 => {
                let at = self.place(bytes, 1);
                let byte = self.below(256) as u8;
                bytes[at].fill(byte);
            }
            1 => {
                let at = self.place(bytes, 1);
                let bit = 1 << self.below(8);
                bytes[at].iter_mut().for_each(|byte| *byte ^= bit);
            }
            2 | 3 => {
                let number = match self.below(3) {
                    0 => self.below(bytes.len() + 1) as u32,
                    _ => NUMBERS[self.below(NUMBERS.len())],
                };
                let width = 1 << self.below(3);
                let at = self.place(bytes, width);
                let number = &number.to_le_bytes()[..at.len()];
                bytes[at].copy_from_slice(number);
            }
            4 => bytes.truncate(self.below(bytes.len() + 1)),
            5 => {
                let len = 1 + self.below(40);
                let at = self.place(bytes, len);
                bytes.drain(at);
            }
            6 => {
                let len = 1 + self.below(200);
                let from = self.place(bytes, len);
                let copy = bytes[from].to_vec();
                let at = self.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            _ => {
                let from = self.place(other, 64);
                let at = self.place(bytes, from.len());
                bytes.splice(at, other[from].iter().copied());
            }
        }
    }
}

fn target(name: &str) -> fn(&[u8]) {
    match name {
        "dmar" => |bytes| portcullis_fuzz::table(b"DMAR", bytes),
        "ivrs" => |bytes| portcullis_fuzz::table(b"IVRS", bytes),
        "iort" => |bytes| portcullis_fuzz::table(b"IORT", bytes),
        "rimt" => |bytes| portcullis_fuzz::table(b"RIMT", bytes),
        "viot" => |bytes| portcullis_fuzz::table(b"VIOT", bytes),
        "mcfg" => |bytes| portcullis_fuzz::table(b"MCFG", bytes),
        "loader" => portcullis_fuzz::loader,
        "devicetree" => portcullis_fuzz::devicetree,
        _ => panic!("no target {name}"),
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, inputs, folders @ ..] = &arguments[..] else { panic!("TARGET INPUTS FOLDER...") };
    let inputs: u64 = inputs.parse().expect("a number of inputs");
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a file")).collect();
    let (mut random, run, begin) = (Random(0x5eed), target(name), Instant::now());
    let mut input = Vec::new();
    for _ in 0..inputs {
        input.clear();
        input.extend(&seeds[random.below(seeds.len())]);
        let other = random.below(seeds.len());
        for _ in 0..=random.below(6) {
            random.damage(&mut input, &seeds[other]);
        }
        if random.below(1000) == 0 {
            random.grow(&mut input);
        }
        if let Err(cause) = std::panic::catch_unwind(|| run(&input)) {
            fs::write(format!("crash-{name}"), &input).expect("written");
            std::panic::resume_unwind(cause);
        }
    }
    println!(
        "{name}: {inputs} inputs of {} seeds in {:.0} s",
        seeds.len(),
        begin.elapsed().as_secs_f64()
    );
}

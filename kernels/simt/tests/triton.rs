//! Kernels compiled by Triton, whose output runs on hardware every day: an oracle that shares no
//! author with the emulator. `triton/generate.py` makes the PTX.

use half::f16;
use simt::{Arg, Counters, DevicePtr, Machine, MmaOrder, Module, Options};

struct Device {
    machine: Machine,
    module: Module,
    shared_bytes: u32,
}

impl Device {
    fn new(ptx: &str, options: Options) -> Device {
        let shared_bytes = ptx
            .split_once("shared memory ")
            .and_then(|(_, rest)| rest.split_once(' '))
            .and_then(|(bytes, _)| bytes.parse().ok())
            .expect("the first line gives the shared memory");
        let mut machine = Machine::new(options);
        let module = machine.load(ptx).expect("Triton writes PTX");
        Device { machine, module, shared_bytes }
    }

    fn upload(&mut self, bytes: &[u8]) -> DevicePtr {
        let ptr = self.machine.alloc(bytes.len() as u64).expect("memory");
        self.machine.copy_in(ptr, bytes).expect("the allocation is as long");
        ptr
    }

    /// Runs with the two scratch pointers that Triton adds and these kernels do not use.
    fn launch(&mut self, name: &str, grid: (u32, u32), threads: u32, args: &[Arg]) -> Counters {
        let mut args = args.to_vec();
        args.extend([Arg::U64(0), Arg::U64(0)]);
        self.machine
            .launch(&self.module, name, grid, threads, self.shared_bytes, &args)
            .unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn halves(&self, ptr: DevicePtr, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; 2 * count];
        self.machine.copy_out(ptr, &mut bytes).expect("the result is there");
        bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }
}

/// The same on a card that has wgmma.
fn on_sm90(options: &Options) -> Options {
    Options { compute_capability: (9, 0), ..options.clone() }
}

/// Values in [-1, 1], rounded to f16.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut random = simt::random::Random::new(seed);
    (0..count).map(|_| f16::from_f32(random.below(2001) as f32 / 1000.0 - 1.0).to_f32()).collect()
}

fn half_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
}

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[track_caller]
fn assert_close(got: &[f32], exact: impl Fn(usize) -> f64, tolerance: f64) {
    for (at, &value) in got.iter().enumerate() {
        let error = (f64::from(value) - exact(at)).abs();
        assert!(error <= tolerance, "element {at}: {value}, not {}", exact(at));
    }
}

/// Every combination a kernel must be right under.
fn all_options() -> impl Iterator<Item = Options> {
    (0..4).map(|seed| Options {
        seed,
        perturb_approximations: seed % 2 == 1,
        mma_order: if seed < 2 { MmaOrder::Exact } else { MmaOrder::Sequential },
        ..Options::default()
    })
}

/// The products are exact; what is left is the rounding to f16 of sums below 16.
const MATMUL_TOLERANCE: f64 = 16.0 / 2048.0;

/// a[m, k] b[k, n], both row-major, or with `transposed` both column-major.
struct Matmul {
    ptx: &'static str,
    name: &'static str,
    threads: u32,
    m: usize,
    n: usize,
    k: usize,
    grid: (u32, u32),
    transposed: bool,
}

impl Matmul {
    /// Runs under `options` and compares with sums in f64.
    fn check(&self, options: Options) -> Counters {
        let Matmul { m, n, k, .. } = *self;
        let mut device = Device::new(self.ptx, options);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (pa, pb) = (device.upload(&half_bytes(&a)), device.upload(&half_bytes(&b)));
        let pc = device.machine.alloc(2 * (m * n) as u64).expect("memory");
        let args =
            [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::I32(m as i32), Arg::I32(n as i32)];
        let counters = device.launch(self.name, self.grid, self.threads, &args);
        let exact = |at: usize| {
            let (row, column) = (at / n, at % n);
            let product = |i: usize| {
                let (left, right) = match self.transposed {
                    true => (i * m + row, column * k + i),
                    false => (row * k + i, i * n + column),
                };
                f64::from(a[left]) * f64::from(b[right])
            };
            (0..k).map(product).sum()
        };
        assert_close(&device.halves(pc, m * n), exact, MATMUL_TOLERANCE);
        assert_eq!(counters.ldmatrix_bank_conflicts, 0, "Triton swizzles");
        counters
    }
}

#[test]
fn tritons_matmul_is_a_matmul() {
    for options in all_options() {
        let counters = Matmul {
            ptx: include_str!("triton/matmul_sm80.ptx"),
            name: "matmul",
            threads: 128,
            m: 70,
            n: 80,
            k: 96,
            grid: (2, 2),
            transposed: false,
        }
        .check(options);
        assert_eq!(counters.mma, 4 * 32 * 6, "4 blocks of 32 tiles, 6 steps of k");
    }
}

#[test]
fn tritons_wgmma_matmul_is_a_matmul() {
    for options in all_options() {
        let counters = Matmul {
            ptx: include_str!("triton/matmul_sm90.ptx"),
            name: "matmul",
            threads: 128,
            m: 70,
            n: 80,
            k: 96,
            grid: (2, 2),
            transposed: false,
        }
        .check(on_sm90(&options));
        assert_eq!(counters.wgmma, 4 * 4 * 6, "4 blocks of 4 warps, 6 steps of k");
    }
}

#[test]
fn tritons_wgmma_matmul_of_two_warpgroups_is_a_matmul() {
    for options in all_options() {
        let counters = Matmul {
            ptx: include_str!("triton/matmul_wide_sm90.ptx"),
            name: "matmul",
            threads: 256,
            m: 130,
            n: 136,
            k: 192,
            grid: (2, 2),
            transposed: false,
        }
        .check(on_sm90(&options));
        assert_eq!(counters.wgmma, 4 * 8 * 12, "4 blocks of 8 warps, 12 steps of k");
    }
}

#[test]
fn tritons_wgmma_matmul_of_transposed_factors_is_a_matmul() {
    for options in all_options() {
        let counters = Matmul {
            ptx: include_str!("triton/matmul_transposed_sm90.ptx"),
            name: "matmul_transposed",
            threads: 128,
            m: 128,
            n: 48,
            k: 64,
            grid: (1, 2),
            transposed: true,
        }
        .check(on_sm90(&options));
        assert_eq!(counters.wgmma, 2 * 4 * 2 * 4, "2 blocks of 4 warps, 2 x 64 rows, 4 steps");
    }
}

fn check_attention(ptx: &str, options: Options) -> Counters {
    const D: usize = 64;
    let mut device = Device::new(ptx, options);
    let (length, scale) = (70, 0.125f32);
    let inputs = [1, 2, 3].map(|seed| values(length * D, seed));
    let [q, k, v] = &inputs;
    let mut args: Vec<Arg> =
        inputs.iter().map(|values| Arg::Ptr(device.upload(&half_bytes(values)))).collect();
    let out = device.machine.alloc(2 * (length * D) as u64).expect("memory");
    args.extend([Arg::Ptr(out), Arg::I32(length as i32), Arg::F32(scale)]);
    let counters = device.launch("attention", (2, 1), 128, &args);
    let got = device.halves(out, length * D);
    for row in 0..length {
        let dot = |key: usize| -> f64 {
            (0..D).map(|d| f64::from(q[row * D + d]) * f64::from(k[key * D + d])).sum()
        };
        let weights: Vec<f64> =
            (0..length).map(|key| (dot(key) * f64::from(scale)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let exact = |d: usize| {
            let weighted = |(key, w): (usize, &f64)| w * f64::from(v[key * D + d]);
            weights.iter().enumerate().map(weighted).sum::<f64>() / total
        };
        // Weights are rounded to f16 before the second product: 2^-11 of values up to 1.
        assert_close(&got[row * D..][..D], exact, 1e-3);
    }
    assert_eq!(counters.ldmatrix_bank_conflicts, 0, "Triton swizzles");
    counters
}

#[test]
fn tritons_attention_is_attention() {
    for options in all_options() {
        check_attention(include_str!("triton/attention_sm80.ptx"), options);
    }
}

/// The weights are A, in registers; the values are N-major.
#[test]
fn tritons_wgmma_attention_is_attention() {
    for options in all_options() {
        let ptx = include_str!("triton/attention_sm90.ptx");
        let counters = check_attention(ptx, on_sm90(&options));
        assert_eq!(counters.wgmma, 2 * 4 * 3 * 6, "2 blocks of 4 warps, 3 key blocks, 4 + 2 steps");
    }
}

#[test]
fn tritons_layer_norm_is_a_layer_norm() {
    for options in all_options() {
        let mut device = Device::new(include_str!("triton/layer_norm_sm80.ptx"), options);
        let (rows, n) = (3, 400);
        let (x, gain, bias) = (values(rows * n, 1), values(n, 2), values(n, 3));
        let mut args: Vec<Arg> = [&x, &gain, &bias]
            .into_iter()
            .map(|values| Arg::Ptr(device.upload(&float_bytes(values))))
            .collect();
        let out = device.machine.alloc(4 * (rows * n) as u64).unwrap();
        args.extend([Arg::Ptr(out), Arg::I32(n as i32), Arg::F32(1e-5)]);
        device.launch("layer_norm", (rows as u32, 1), 128, &args);
        let mut bytes = vec![0; 4 * rows * n];
        device.machine.copy_out(out, &mut bytes).unwrap();
        let got: Vec<f32> =
            bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for row in 0..rows {
            let x: Vec<f64> = x[row * n..][..n].iter().map(|&x| f64::from(x)).collect();
            let mean = x.iter().sum::<f64>() / n as f64;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
            let exact = |at: usize| {
                (x[at] - mean) / (variance + 1e-5).sqrt() * f64::from(gain[at])
                    + f64::from(bias[at])
            };
            assert_close(&got[row * n..][..n], exact, 1e-5);
        }
    }
}

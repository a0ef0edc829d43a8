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
    fn launch(&mut self, name: &str, grid: (u32, u32), args: &[Arg]) -> Counters {
        let mut args = args.to_vec();
        args.extend([Arg::U64(0), Arg::U64(0)]);
        self.machine
            .launch(&self.module, name, grid, 128, self.shared_bytes, &args)
            .unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn halves(&self, ptr: DevicePtr, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; 2 * count];
        self.machine.copy_out(ptr, &mut bytes).expect("the result is there");
        bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }
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

#[test]
fn tritons_matmul_is_a_matmul() {
    const K: usize = 96;
    for options in all_options() {
        let mut device = Device::new(include_str!("triton/matmul_sm80.ptx"), options);
        let (m, n) = (70, 80);
        let (a, b) = (values(m * K, 1), values(K * n, 2));
        let (pa, pb) = (device.upload(&half_bytes(&a)), device.upload(&half_bytes(&b)));
        let pc = device.machine.alloc(2 * (m * n) as u64).unwrap();
        let args =
            [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::I32(m as i32), Arg::I32(n as i32)];
        let counters = device.launch("matmul", (2, 2), &args);
        // The products are exact; what is left is the rounding to f16 of sums below 16.
        assert_close(
            &device.halves(pc, m * n),
            |at| {
                let (row, column) = (at / n, at % n);
                (0..K).map(|k| f64::from(a[row * K + k]) * f64::from(b[k * n + column])).sum()
            },
            16.0 / 2048.0,
        );
        assert_eq!(counters.mma, 4 * 32 * 6, "4 blocks of 32 tiles, 6 steps of k");
        assert_eq!(counters.ldmatrix_bank_conflicts, 0, "Triton swizzles");
    }
}

#[test]
fn tritons_attention_is_attention() {
    const D: usize = 64;
    for options in all_options() {
        let mut device = Device::new(include_str!("triton/attention_sm80.ptx"), options);
        let (length, scale) = (70, 0.125f32);
        let inputs = [1, 2, 3].map(|seed| values(length * D, seed));
        let [q, k, v] = &inputs;
        let mut args: Vec<Arg> =
            inputs.iter().map(|values| Arg::Ptr(device.upload(&half_bytes(values)))).collect();
        let out = device.machine.alloc(2 * (length * D) as u64).unwrap();
        args.extend([Arg::Ptr(out), Arg::I32(length as i32), Arg::F32(scale)]);
        let counters = device.launch("attention", (2, 1), &args);
        let got = device.halves(out, length * D);
        for row in 0..length {
            let dot = |key: usize| -> f64 {
                (0..D).map(|d| f64::from(q[row * D + d]) * f64::from(k[key * D + d])).sum()
            };
            let weights: Vec<f64> =
                (0..length).map(|key| (dot(key) * f64::from(scale)).exp()).collect();
            let total: f64 = weights.iter().sum();
            let exact = |d: usize| {
                weights
                    .iter()
                    .enumerate()
                    .map(|(key, w)| w * f64::from(v[key * D + d]))
                    .sum::<f64>()
                    / total
            };
            // Weights are rounded to f16 before the second product: 2^-11 of values up to 1.
            assert_close(&got[row * D..][..D], exact, 1e-3);
        }
        assert_eq!(counters.ldmatrix_bank_conflicts, 0, "Triton swizzles");
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
        device.launch("layer_norm", (rows as u32, 1), &args);
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

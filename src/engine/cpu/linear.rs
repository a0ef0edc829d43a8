//! Linear layers: the kernel for the weight's precision, and the form its rows must have.

use super::kernels::LinearArgs;
use super::narrow::weight::Panels;
use super::narrow::{self, EncodeArgs, Numbers, Output, Source, Target, Words};
use super::paired::Paired;
use super::weight::Weights;
use super::{Cpu, Linear, Rows};
use crate::engine::{Dtype, Epilogue};

impl Cpu {
    pub(super) fn multiply(&self, x: &Rows, w: &Linear, epilogue: Epilogue, out: &mut Rows) {
        assert_eq!(x.width, w.k, "columns to multiply");
        assert_eq!(out.width, w.n, "columns to write");
        assert!(out.stride >= w.num_panels() * w.panel, "room for whole panels");
        out.set_rows(x.num_rows);
        match &w.weights {
            Weights::F32(_) | Weights::Paired(_) => {
                let (num_rows, stride) = (x.num_rows, out.stride);
                let out = (out.wide_mut(), stride);
                self.multiply_f32(num_rows, (x.wide(), x.stride), w, epilogue, out);
            }
            Weights::Narrow(panels) => {
                self.multiply_narrow(x, w, panels, epilogue, out);
                // An activation lies between two linear layers, so the next one's form is due.
                if epilogue != Epilogue::Bias {
                    self.encode(out);
                }
            }
        }
    }

    /// A product in f32 of `num_rows` rows, given with their strides.
    pub(super) fn multiply_f32(
        &self,
        num_rows: usize,
        (x, x_stride): (&[f32], usize),
        w: &Linear,
        epilogue: Epilogue,
        (out, out_stride): (&mut [f32], usize),
    ) {
        let nothing = std::ptr::null();
        let (panels, scales, starts, kernel) = match &w.weights {
            Weights::F32(panels) => {
                assert_eq!(w.panel, self.kernels.panel, "a weight packed for these kernels");
                (panels, nothing, nothing, self.kernels.linear)
            }
            Weights::Paired(Paired { panels, scales, starts }) => {
                let kernel = self.kernels.paired.expect("a kernel for products of pairs");
                (panels, scales.as_ptr(), starts.as_ptr(), kernel)
            }
            Weights::Narrow(_) => panic!("a weight in f32"),
        };
        assert!(x.len() >= num_rows.saturating_sub(1) * x_stride + w.k, "rows to multiply");
        assert!(out_stride >= w.num_panels() * w.panel, "room for whole panels");
        assert!(out.len() >= num_rows * out_stride, "rows to write");
        let args = LinearArgs {
            x: x.as_ptr(),
            x_stride,
            rows: num_rows,
            k: w.k,
            panels: panels.as_ptr(),
            num_panels: w.num_panels(),
            bias: w.bias.as_ptr(),
            scales,
            starts,
            epilogue,
            out: out.as_mut_ptr(),
            out_stride,
        };
        // SAFETY: `with_isa` asked the CPU; the sizes were compared above, `Linear` was packed in whole panels, as were
        // its bias, scales and starts, and `out` is borrowed alone.
        unsafe { kernel(&args) };
    }

    fn multiply_narrow(
        &self,
        x: &Rows,
        w: &Linear,
        panels: &Panels,
        epilogue: Epilogue,
        out: &mut Rows,
    ) {
        assert_eq!(w.panel, self.narrow.panel, "a weight packed for these kernels");
        // What does not widen its rows leads back to the residual stream, where bf16 would cost precision;
        // the others feed attention or, activated, a product.
        let kernel = match panels.numbers {
            Numbers::Bf16 => self.narrow.linear_bf16,
            Numbers::Words => self.words().linear,
            Numbers::Bytes => self.narrow.linear_int8,
        };
        let (rows, codes) = match panels.numbers {
            Numbers::Bf16 => (x.half().as_ptr().cast(), std::ptr::null()),
            Numbers::Words | Numbers::Bytes => {
                let (bytes, codes) = x.codes();
                (bytes.as_ptr(), codes.as_ptr())
            }
        };
        let x_stride_bytes = x.stride * panels.numbers.size();
        assert!(x_stride_bytes >= panels.steps * narrow::STEP_BYTES, "rows of whole steps");
        let args = narrow::LinearArgs {
            x: rows,
            x_stride_bytes,
            rows: x.num_rows,
            steps: panels.steps,
            panels: panels.panels.as_ptr(),
            num_panels: w.num_panels(),
            bias: w.bias.as_ptr(),
            codes,
            scales: panels.scales.as_ptr(),
            sums: panels.sums.as_ptr(),
            starts: panels.starts.as_ptr(),
            epilogue,
            out_stride: out.stride,
            out: if epilogue == Epilogue::Bias && w.n <= w.k {
                Output::F32(out.wide_mut().as_mut_ptr())
            } else {
                Output::Bf16(out.half_mut().as_mut_ptr())
            },
        };
        // SAFETY: `with_isa` asked the CPU; `multiply` compared the sizes, the rows have whole steps and
        // `Rows::new` gave them whole blocks, `Panels::pack` made whole panels, and `out` is borrowed alone.
        unsafe { kernel(&args) };
    }

    /// Makes the form that a narrow product reads, from the f32 form if that holds, else from bf16.
    ///
    /// Operations do it for their results; what writes rows by hand calls it itself.
    pub fn encode(&self, rows: &mut Rows) {
        if self.dtype == Dtype::F32 {
            return;
        }
        let (num_rows, width, stride) = (rows.num_rows, rows.width, rows.stride);
        let parts = rows.parts();
        let (wide, half) = (parts.forms.wide, parts.half.as_mut_ptr());
        assert!(wide || parts.forms.half, "rows to encode");
        let from = if wide { Source::F32(parts.wide.as_ptr()) } else { Source::Bf16(half) };
        let (bytes, codes) = (parts.bytes.as_mut_ptr(), parts.codes.as_mut_ptr());
        let args =
            EncodeArgs { from, rows: num_rows, width, from_stride: stride, to_stride: stride };
        // SAFETY: `with_isa` asked the CPU; every form has room for `num_rows` rows, and the two differ.
        unsafe {
            match self.numbers() {
                Numbers::Bf16 if !wide => {}
                Numbers::Bf16 => {
                    (self.narrow.encode)(&args, Target::Bf16(half));
                    parts.forms.half = true;
                }
                Numbers::Bytes => {
                    (self.narrow.encode)(&args, Target::Bytes(bytes, codes));
                    parts.forms.codes = true;
                }
                Numbers::Words => {
                    (self.words().encode)(&args, bytes.cast(), codes);
                    parts.forms.codes = true;
                }
            }
        }
    }

    fn words(&self) -> &'static Words {
        self.narrow.words.expect("kernels for words")
    }
}

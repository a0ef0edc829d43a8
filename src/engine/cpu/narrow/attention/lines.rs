//! A line of a product: a dword of each row of a group by a vector of each of two tiles, which are 32 columns.
//!
//! Written out, as the compiler would gather the products behind what is woven between them, and then lack registers.
//! Scores have the first twelve, values the next: both are under way at a time.

/// Rows of what is multiplied, so many bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) start: *const u8,
    pub(super) stride: usize,
}

macro_rules! line {
    (
        $product:literal, $dword:expr, $line:expr, $rows:expr, $columns:expr, $sums:expr,
        $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt
        $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt
    ) => {{
        let (dword, Rows { start, stride }) = ($dword, $rows);
        let columns: [*const u8; 2] = $columns.map(|column| column.add($line * STEP_BYTES));
        let [s0, s1, s2, s3, s4, s5]: &mut Sums = $sums;
        let row = start.add(dword * 4);
        std::arch::asm!(
            "vmovups zmm24, [{low}]",
            "vmovups zmm25, [{high}]",
            concat!($product, " ", $a, ", zmm24, dword ptr [{row}]{{1to16}}"),
            concat!($product, " ", $b, ", zmm25, dword ptr [{row}]{{1to16}}"),
            concat!($product, " ", $c, ", zmm24, dword ptr [{row} + {stride}]{{1to16}}"),
            concat!($product, " ", $d, ", zmm25, dword ptr [{row} + {stride}]{{1to16}}"),
            concat!($product, " ", $e, ", zmm24, dword ptr [{row} + 2*{stride}]{{1to16}}"),
            concat!($product, " ", $f, ", zmm25, dword ptr [{row} + 2*{stride}]{{1to16}}"),
            concat!($product, " ", $g, ", zmm24, dword ptr [{third}]{{1to16}}"),
            concat!($product, " ", $h, ", zmm25, dword ptr [{third}]{{1to16}}"),
            concat!($product, " ", $i, ", zmm24, dword ptr [{third} + {stride}]{{1to16}}"),
            concat!($product, " ", $j, ", zmm25, dword ptr [{third} + {stride}]{{1to16}}"),
            concat!($product, " ", $k, ", zmm24, dword ptr [{third} + 2*{stride}]{{1to16}}"),
            concat!($product, " ", $l, ", zmm25, dword ptr [{third} + 2*{stride}]{{1to16}}"),
            low = in(reg) columns[0],
            high = in(reg) columns[1],
            row = in(reg) row,
            third = in(reg) row.add(3 * stride),
            stride = in(reg) stride,
            inout($a) s0[0], inout($b) s0[1],
            inout($c) s1[0], inout($d) s1[1],
            inout($e) s2[0], inout($f) s2[1],
            inout($g) s3[0], inout($h) s3[1],
            inout($i) s4[0], inout($j) s4[1],
            inout($k) s5[0], inout($l) s5[1],
            out("zmm24") _, out("zmm25") _,
            options(nostack, readonly, preserves_flags),
        );
    }};
}

/// [`line`] in the registers of scores.
macro_rules! line_of_scores {
    ($product:literal, $($operand:expr),+) => {
        line!($product, $($operand),+,
            "zmm0" "zmm1" "zmm2" "zmm3" "zmm4" "zmm5"
            "zmm6" "zmm7" "zmm8" "zmm9" "zmm10" "zmm11")
    };
}

/// Adds to scores the products of queries by keys: of bf16, or if `$bytes` of signed with unsigned bytes, as integers.
macro_rules! add_scores {
    ($bytes:expr, $dword:expr, $($operand:expr),+) => {
        if $bytes {
            line_of_scores!("vpdpbusd", $dword, $dword, $($operand),+)
        } else {
            line_of_scores!("vdpbf16ps", $dword, $dword, $($operand),+)
        }
    };
}

/// Adds values by their weights.
macro_rules! add_values {
    ($dword:expr, $($operand:expr),+) => {
        line!("vdpbf16ps", $dword, weights::pair_of($dword), $($operand),+,
            "zmm12" "zmm13" "zmm14" "zmm15" "zmm16" "zmm17"
            "zmm18" "zmm19" "zmm20" "zmm21" "zmm22" "zmm23")
    };
}

pub(super) use {add_scores, add_values, line, line_of_scores};

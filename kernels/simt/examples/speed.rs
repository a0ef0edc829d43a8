//! Warp instructions per second of this machine: `cargo run --release -p simt --example speed`.

use std::time::Instant;

use simt::{Arg, Machine, Options};

const ROUNDS: u32 = 20_000;

fn kernel(body: &str) -> String {
    format!(
        ".version 7.8 .target sm_80 .entry k(.param .u64 ptr) {{
         .reg .b64 p; .reg .b32 n, s, x<8>; .reg .f32 f<8>; .reg .pred more;
         .shared .align 16 .b8 tile[4096];
         ld.param.u64 p, [ptr]; mov.u32 n, 0; mov.u32 x1, %tid.x; shl.b32 s, x1, 4;
         mov.u32 x2, tile; add.s32 s, s, x2; mov.b32 f1, 0f3F800000; mov.b32 f2, f1;
         mov.u32 x3, 0; mov.u32 x4, 0; mov.u32 x5, 0; mov.u32 x6, 0; mov.u32 x7, 0;
         st.shared.v4.b32 [s], {{x3, x3, x3, x3}};
         again: {body} add.s32 n, n, 1; setp.lt.u32 more, n, {ROUNDS}; @more bra again; ret; }}"
    )
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch reads the clock")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let add = "add.s32 x2, x1, x3; fma.rn.f32 f3, f1, f2, f1; and.b32 x5, x4, x2;".repeat(4);
    let shared = "ld.shared.v4.b32 {x4, x5, x6, x7}, [s]; ldmatrix.sync.aligned.m8n8.x4.shared.b16
        {x4, x5, x6, x7}, [s];";
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {f1, f2, f3, f4},
        {x4, x5, x6, x7}, {x3, x2}, {f1, f2, f3, f4};";
    for (name, body) in [("arithmetic", add.as_str()), ("shared", shared), ("mma", mma)] {
        let mut machine = Machine::new(Options::default());
        let module = machine.load(&kernel(body))?;
        let ptr = machine.alloc(4)?;
        let start = Instant::now();
        let counters = machine.launch(&module, "k", 1, 64, 0, &[Arg::Ptr(ptr)])?;
        let rate = counters.instructions as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("{name}: {rate:.1} million warp instructions a second");
    }
    Ok(())
}
